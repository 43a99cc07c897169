"""The code of the how-to pages runs as it stands."""

import re
from pathlib import Path

import pytest
import torch
from dense import agree

ROOT = Path(__file__).parents[1]


def code(page: str) -> str:
    """The Python of a page, block after block."""
    return "\n".join(re.findall(r"```python\n(.*?)```", (ROOT / "book" / page).read_text(), re.DOTALL))


def run(text: str) -> dict:
    torch.set_default_dtype(torch.float32)  # as a reader has it
    names: dict = {}
    exec(compile(text, "a page", "exec"), names)
    return names


def test_the_loop_of_the_first_page_learns():
    text = code("index.md")
    assert text.count("range(500)") == 1 and len(text.splitlines()) <= 18
    losses = {}
    for name, version in {"SepPGD": text, "plain": text.replace("    Z.register_hook(method)", "    pass")}.items():
        torch.manual_seed(0)
        names = run(version)
        losses[name] = (names["model"].grid(names["axes"])[0] - names["Y"]).square().mean().item()
    assert names["method"].step == 0 and losses["SepPGD"] < losses["plain"] / 4


def test_the_page_on_one_s_own_programs_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = code("howto-torch.md")
    names = run(text)
    assert names["method"].step == 100 and len(names["history"].loss) > 50
    assert sum(names["history"].loss[-1]) < 0.1 * names["Y"].square().sum().item() / 2
    assert names["values"].shape == (7, 3)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.seplib", "run.checkpoint"]
    early = text.replace("patience=50", "patience=1").replace("lr=1e-3)\nscheduler", "lr=1.0)\nscheduler")
    (tmp_path / "run.checkpoint").unlink()
    assert len(run(early)["history"].loss) < 201


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
