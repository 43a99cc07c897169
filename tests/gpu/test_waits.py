"""How often the host waits for a GPU: never for a training step, twice an axis for a new preconditioner, once a block for losses."""

import itertools
import math
from collections import Counter

import pytest
import torch

from seplib import CP, MLP, TT, FactorMLP, SepPGD, Tucker, fit, training
from seplib.baselines import MSK
from seplib.pde.loss import LOSSES, PhysicsLoss
from seplib.ridge import Linearised
from seplib.studies.pde.fitting import EQUATIONS
from seplib.training import descend

SIZES = {2: (7, 6), 3: (5, 4, 6)}


def factors(dims, device, rank=4, ensemble=2):
    generator = torch.Generator().manual_seed(dims)
    shape = dict(width=6, depth=3, omega=3.0, ensemble=ensemble, generator=generator, device=device)
    return [FactorMLP(rank, **shape) for _ in range(dims)]


def problem(device, dims=2, model=None):
    axes = [torch.linspace(-1, 1, n).to(device) for n in SIZES[dims]]
    target = torch.randn(2, *SIZES[dims], generator=torch.Generator().manual_seed(5)).to(device)
    return model or CP(factors(dims, device)), axes, target


def adam(parameters):
    return torch.optim.Adam(parameters, 1e-3, fused=True)


def by_iteration(waits, run, iterations):
    """Waits between one look and the next: entry t is the t-th update with what comes behind it, of kind and function."""
    looks = []
    with waits.during() as seen:
        run(lambda state: looks.append(waits.copy()))
    assert len(looks) == iterations + 1
    return [later - earlier for earlier, later in itertools.pairwise(looks)], seen


def kinds(found: Counter) -> dict[str, int]:
    total: Counter = Counter()
    for (kind, place), count in found.items():
        total[f"{kind}, {place.split(':')[0]}"] += count
    return dict(total)


CASES = {
    "plain": lambda d: fit_arguments(d),
    "masked": lambda d: fit_arguments(d, mask=True),
    "another optimizer": lambda d: fit_arguments(d, optimizer=lambda p: torch.optim.SGD(p, 1e-4, momentum=0.9)),
    "streamed": lambda d: fit_arguments(d, dims=3, streamed=True),
    "TT": lambda d: fit_arguments(d, dims=3, model=TT(factors(1, d) + factors(1, d, 12) + factors(1, d, 3), (4, 3))),
    "Tucker": lambda d: fit_arguments(d, dims=3, model=Tucker(factors(3, d, 3), (3, 3, 3))),
    "MLP": lambda d: fit_arguments(d, model=MLP(2, width=6, depth=3, ensemble=2, device=d)),
    "linearised": lambda d: fit_arguments(d, model=Linearised(CP(factors(2, d, ensemble=1)), copies=2)),
    "scattered": lambda d: fit_arguments(d, scattered=True),
}


def fit_arguments(device, dims=2, model=None, mask=False, scattered=False, optimizer=adam, streamed=False):
    model, axes, target = problem(device, dims, model)
    if scattered:
        axes, target = torch.cartesian_prod(*axes), target.flatten(1)
    known = (target > -1) if mask else None
    return dict(
        model=model, axes=axes, target=target, optimizer=optimizer(model.parameters()), mask=known, streamed=streamed
    )


@pytest.mark.parametrize("case", CASES)
def test_a_plain_step_waits_for_nothing(case, device, waits):
    arguments = CASES[case](device)

    def run(look):
        return fit(**arguments, iterations=60, callbacks=[look])

    steps, _ = by_iteration(waits, run, 60)
    # The last entry is the end, where the losses are fetched.
    assert not sum(steps[:-1], Counter()), kinds(sum(steps[:-1], Counter()))
    assert kinds(steps[-1]) == {"value fetched, training.py": 1}


@pytest.mark.parametrize(("dims", "streamed"), [(2, False), (3, True)])
@pytest.mark.parametrize("g", ["flat", "sqrt", "geometric"])
def test_a_new_preconditioner_waits_twice_an_axis_and_a_step_between_for_nothing(dims, streamed, g, device, waits):
    arguments = fit_arguments(device, dims, streamed=streamed)
    method = SepPGD(arguments["model"], arguments["axes"], k=3, update_every=20, g=g)

    def run(look):
        return fit(**arguments, preconditioner=method, iterations=60, callbacks=[look])

    steps, _ = by_iteration(waits, run, 60)
    renewal = {"value fetched, preconditioning.py": dims, "error code of a decomposition, preconditioning.py": dims}
    assert [t for t, step in enumerate(steps[:-1]) if step] == [0, 20, 40]
    assert [kinds(steps[t]) for t in (0, 20, 40)] == [renewal] * 3


def test_at_scattered_points_as_on_a_grid(device, waits):
    arguments = fit_arguments(device, scattered=True)
    method = SepPGD(arguments["model"], arguments["axes"], k=3, update_every=20)
    steps, _ = by_iteration(
        waits, lambda look: fit(**arguments, preconditioner=method, iterations=30, callbacks=[look]), 30
    )
    assert [(t, step.total()) for t, step in enumerate(steps[:-1]) if step] == [(0, 4), (20, 4)]


def test_with_all_points_kernel_lanczos_waits_twice_a_product(device, waits):
    """ARPACK runs on the host: each of its products takes a vector to the device and one back."""
    arguments = fit_arguments(device)
    method = MSK(arguments["model"], arguments["axes"], k=3, update_every=20)
    steps, _ = by_iteration(
        waits, lambda look: fit(**arguments, preconditioner=method, iterations=30, callbacks=[look]), 30
    )
    assert [t for t, step in enumerate(steps[:-1]) if step] == [0, 20]
    found = kinds(steps[20])
    assert found.pop("value fetched, preconditioning.py") == 1
    pairs = 2 * 2  # values and vectors of two copies
    assert found == {
        "copy to the host, operators.py": found["copy to the host, operators.py"],
        "copy to the device, operators.py": found["copy to the host, operators.py"] + pairs,
    }


@pytest.mark.parametrize("equation", EQUATIONS)
@pytest.mark.parametrize("network", ["CP", "MLP", "SepPGD"])
def test_a_physics_informed_step_waits_for_nothing(equation, network, device, waits):
    equation, n = EQUATIONS[equation](20), 6
    dims = len(equation.domain)
    model = MLP(dims, width=6, depth=3, device=device) if network == "MLP" else CP(factors(dims, device))
    axes = equation.axes(n, device=device)
    made = {name: SepPGD(model, axes, 2, 100) for name in LOSSES[1:]} if network == "SepPGD" else {}
    target = equation.values(equation.axes(n)).to(device)
    step = PhysicsLoss(equation, model, axes, target, dict.fromkeys(LOSSES, 1.0), made)
    steps, _ = by_iteration(
        waits, lambda look: descend(step, model, adam([step.parameter]), step, 20, callbacks=[look]), 20
    )
    assert steps[0].total() == 2 * dims * len(made)
    assert not sum(steps[1:-1], Counter()), kinds(sum(steps[1:-1], Counter()))


def test_losses_are_fetched_block_by_block(device, waits):
    arguments = fit_arguments(device)
    with waits.during() as seen:
        history = fit(**arguments, iterations=2 * training.BLOCK + 50)
    assert kinds(seen) == {"value fetched, training.py": 1 + 3}  # the target's check; two blocks and the rest
    assert len(history.loss) == len(history.seconds) == 2 * training.BLOCK + 51
    assert all(a < b for a, b in zip(history.seconds, history.seconds[1:]))


@pytest.mark.parametrize("case", [*CASES, "SepPGD"])
def test_history_is_the_cpus(case, device):
    histories = []
    for place in (torch.device("cpu"), device):
        torch.manual_seed(0)
        arguments = CASES.get(case, CASES["plain"])(place)
        method = SepPGD(arguments["model"], arguments["axes"], k=3) if case == "SepPGD" else None
        histories.append(fit(**arguments, preconditioner=method, iterations=130))
    here, there = (torch.tensor(history.loss) for history in histories)
    assert torch.allclose(here, there, rtol=1e-10, atol=0)


@pytest.mark.parametrize("preconditioned", [False, True])
@pytest.mark.parametrize("bad", [0, 7, 99, 100, 101, 150, 230])
def test_the_first_bad_iteration_is_named(bad, preconditioned, device):
    """Wherever in a block it is; what fails later on NaN, such as an eigendecomposition, does not hide it."""
    messages = []
    for place in (torch.device("cpu"), device):
        arguments = fit_arguments(place)
        method = SepPGD(arguments["model"], arguments["axes"], k=3) if preconditioned else None

        def spoil(state):
            if state.iteration == bad - 1:
                for group in state.optimizer.param_groups:
                    group["lr"] = math.inf

        if not bad:
            torch.nn.init.constant_(next(arguments["model"].parameters()), math.inf)
        with pytest.raises(FloatingPointError) as caught:
            fit(**arguments, preconditioner=method, iterations=240, callbacks=[spoil])
        messages.append(str(caught.value))
    assert messages[0] == messages[1] == f"training diverged: the loss is [nan, nan] after {bad} updates"


def test_an_error_of_a_callback_stays_its_own(device):
    def fail(state):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        fit(**fit_arguments(device), iterations=3, callbacks=[fail])


def test_callbacks_wait_only_when_they_measure(device, waits):
    def measure(state):
        return {"seconds": state.seconds} if state.iteration in (20, 40) else None

    arguments = fit_arguments(device)
    with waits.during() as seen:
        history = fit(**arguments, iterations=60, callbacks=[measure])
    assert kinds(seen) == {"value fetched, training.py": 1 + 3}
    assert history.metrics["seconds"] == [history.seconds[20], history.seconds[40]]


def test_time_of_callbacks_is_left_out(device, monkeypatch):
    """With a clock that only the callback lets pass."""
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])

    def idle(state):
        now[0] += 1000.0

    history = fit(**fit_arguments(device), iterations=5, callbacks=[idle])
    assert history.seconds == [0.0] * 6


@pytest.mark.parametrize("cut", [40, 130, 205])
def test_a_cut_run_resumes_to_the_same_numbers(cut, device, tmp_path):
    class Stop(Exception):
        pass

    def run(path, stop=None):
        def maybe_stop(state):
            if state.iteration == stop:
                raise Stop
            return {"twice": 2.0 * state.iteration}

        arguments = fit_arguments(device)
        method = SepPGD(arguments["model"], arguments["axes"], k=2, update_every=7)
        return fit(
            **arguments, preconditioner=method, iterations=220, callbacks=[maybe_stop], checkpoint=path, checkpoint_every=30
        )  # fmt: skip

    whole = run(tmp_path / "whole.pt")
    with pytest.raises(Stop):
        run(tmp_path / "cut.pt", cut)
    resumed = run(tmp_path / "cut.pt")
    assert resumed.loss == whole.loss and resumed.metrics == whole.metrics and len(resumed.seconds) == 221
