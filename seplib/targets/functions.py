"""Functions of two variables that the regressions are tested on (Sec. A.12, Eqs. (16)-(18))."""

import torch
from torch import Tensor


def f1(x: Tensor, y: Tensor) -> Tensor:
    """A narrow Gaussian bump of height 1/3 at (1/2, 1/2), Eq. (16).

    >>> f1(torch.tensor(0.5), torch.tensor(0.5))
    tensor(0.3333)
    """
    return torch.exp(-81 / 4 * ((x - 0.5) ** 2 + (y - 0.5) ** 2)) / 3


def f2(x: Tensor, y: Tensor) -> Tensor:
    """A ridge along x = 1/3 with a wave along y, Eq. (17).

    >>> f2(torch.tensor(1 / 3), torch.tensor(0.0))
    tensor(0.3750)
    """
    return (1.25 + torch.cos(5.4 * y)) / (6 + 6 * (3 * x - 1) ** 2)


def f3(x: Tensor, y: Tensor) -> Tensor:
    """A smooth step from 2/9 to 0 across the line x + y = 1, Eq. (18); not separable.

    >>> f3(torch.tensor(0.5), torch.tensor(0.5))
    tensor(0.1111)
    """
    return (torch.tanh(9 - 9 * x - 9 * y) + 1) / 9
