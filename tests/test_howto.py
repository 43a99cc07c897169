"""The code of the how-to pages runs as it stands."""

import re
from pathlib import Path

import pytest
import torch
from dense import agree

ROOT = Path(__file__).parents[1]


@pytest.fixture
def page(capsys):
    """Names that the code of the page on equations leaves behind, trained for a few updates only."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "book" / "howto-pde.md").read_text(), re.DOTALL)
    code = "\n".join(blocks)
    assert code.count("iterations=2000") == 1
    names: dict = {}
    exec(compile(code.replace("iterations=2000", "iterations=40"), "howto-pde.md", "exec"), names)
    names["said"] = capsys.readouterr().out
    names["lines"] = [line for line in code.splitlines() if line.strip() and not line.startswith(("import", "from"))]
    return names


def test_the_page_on_equations_adds_one_in_few_lines_and_trains_it(page):
    assert page["said"].startswith("relative error: ") and "'boundary'" in page["said"]
    losses = [sum(entry) for entry in page["history"].loss]
    assert losses[-1] < losses[0] / 2
    assert len(page["lines"]) <= 36


def test_the_solution_on_the_page_solves_its_equation(page):
    """By autograd at scattered points, with the page's own operator."""
    flow, mixed = page["flow"], page["mixed"]
    points = [torch.linspace(low + 0.3, high, 7).requires_grad_() for low, high in flow.domain.values()]
    value = mixed(*points)
    fields = {"t": 0, "x": 1, "y": 2}
    slopes = torch.autograd.grad(value.sum(), points)
    d = {name: slopes[place] for name, place in fields.items()}
    agree(flow.rest(d, *points).detach(), -d["t"])
