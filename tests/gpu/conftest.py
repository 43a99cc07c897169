"""Tests on a pretend GPU, in a process of their own: registering it with torch is for good.

`pytest` alone leaves this folder out (`norecursedirs`); `pytest tests/gpu` runs it, as `make test` does.
"""

import pretend_gpu
import pytest
import torch


@pytest.fixture
def device() -> torch.device:
    return pretend_gpu.DEVICE


@pytest.fixture
def waits() -> pretend_gpu.Waits:
    return pretend_gpu.waits
