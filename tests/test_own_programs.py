"""The library inside a program of one's own: plain loops, own factor networks, saving, torch's own tools, NumPy data."""

import copy
import dataclasses
import io
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from dense import agree, cp_value, grid_points, jacobian, kronecker_sum, modulation, pseudo_ntk
from torch import nn

import seplib
from seplib import CP, IGA, MLP, MSK, TT, FactorMLP, FourierFeatures, SepPGD, Tucker, activations, fit, ntk, pde
from seplib.pde import LOSSES, PhysicsLoss
from seplib.separable import cp_tensor
from seplib.training import Stop, descend

SIZES = [(5, 4), (4, 3, 5), (3, 2, 4, 2)]


def random(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Wrapped(nn.Module):
    """A factor network behind another module's back: nothing but its rank, its ensemble and its values are to be seen."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.rank, self.ensemble = inner, inner.rank, inner.ensemble

    def forward(self, x):
        return self.inner(x)


class Polynomials(nn.Module):
    """A factor network of one's own, whose copies share a parameter; another one is frozen."""

    def __init__(self, rank=4, ensemble=2, degree=3, seed=0):
        super().__init__()
        self.rank, self.ensemble = rank, ensemble
        self.coefficients = nn.Parameter(random(ensemble, rank, degree + 1, seed=seed))
        self.stretch = nn.Parameter(torch.tensor(0.7))
        self.shift = nn.Parameter(torch.tensor(0.1), requires_grad=False)

    def forward(self, x):
        powers = (self.stretch * torch.tanh(x) + self.shift)[:, None] ** torch.arange(self.coefficients.shape[-1])
        return torch.einsum("erp,np->enr", self.coefficients, powers)


# --- SepPGD as a hook -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["square", "huber"])
@pytest.mark.parametrize("scale", ["rank", None])
@pytest.mark.parametrize("sizes", SIZES)
def test_a_hook_makes_any_loss_s_gradient_the_kronecker_preconditioned_one(sizes, scale, loss, make_cp):
    """``J^T S~ dLoss/dZ`` with the Jacobian and the matrix S~ written out, and M_d of Eq. (8) at each factor."""
    model, axes = make_cp(sizes, scale=scale)
    target = random(2, *sizes)
    measure = {
        "square": lambda Z: ((Z - target) ** 2).sum() / 2,
        "huber": lambda Z: nn.functional.huber_loss(Z, target),
    }
    factors = [f(x) for f, x in zip(model.factors, axes)]
    for matrix in factors:
        matrix.retain_grad()
    Z = model.scale * cp_tensor(*factors)
    Z.register_hook(lambda g: SepPGD(model, axes, k=2)(g))
    measure[loss](Z).backward()
    through_model = copy.deepcopy([p.grad for p in model.parameters()])

    model.zero_grad()
    Z = model.grid(axes)
    Z.register_hook(SepPGD(model, axes, k=2))
    measure[loss](Z).backward()
    fast = torch.cat([p.grad.flatten() for p in model.parameters()])
    agree(fast, torch.cat([g.flatten() for g in through_model]))

    S = [modulation(pseudo_ntk(f, x), 2, "flat") for f, x in zip(model.factors, axes)]
    leaf = model.grid(axes).detach().requires_grad_()
    (cotangent,) = torch.autograd.grad(measure[loss](leaf), leaf)
    slow, summed = 0, []
    for e in range(2):
        J = jacobian(cp_value(model, grid_points(axes))[e], list(model.parameters()))
        summed.append(kronecker_sum([matrices[e] for matrices in S]) @ cotangent[e].flatten())
        slow = slow + J.T @ summed[-1]
    agree(fast, slow)
    if loss == "square":
        agree(cotangent, (leaf - target).detach())
    summed = torch.stack(summed).view_as(cotangent)
    for d, matrix in enumerate(factors):
        others = [factors[o].detach() for o in range(len(sizes)) if o != d]
        product = others[0]
        for other in others[1:]:
            product = torch.einsum("enr,emr->enmr", product, other).flatten(1, 2)
        M = torch.einsum("enR,end->edR", product, summed.movedim(d + 1, -1).flatten(1, -2))
        agree(matrix.grad, model.scale * M)


@pytest.mark.parametrize("kind", [SepPGD, MSK, IGA])
def test_a_plain_loop_with_a_hook_is_fit_bit_for_bit(kind, make_cp):
    model, axes = make_cp((6, 5))
    target, other = random(2, 6, 5), copy.deepcopy(model)

    def method(network):
        extra = dict(batches=2, generator=torch.Generator().manual_seed(0)) if kind is IGA else {}
        return kind(network, axes, k=2, update_every=3, **extra)

    fit(model, axes, target, torch.optim.Adam(model.parameters(), 1e-2), method(model), iterations=8)
    optimizer, hook = torch.optim.Adam(other.parameters(), 1e-2), method(other)
    for _ in range(8):
        optimizer.zero_grad()
        Z = other.grid(axes)
        Z.register_hook(hook)
        (0.5 * (Z - target) ** 2).sum().backward()
        optimizer.step()
    assert hook.step == 8
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters()))


@pytest.mark.parametrize("kind", [SepPGD, MSK, IGA])
def test_a_method_that_has_served_one_run_begins_anew_in_the_next(kind, make_cp):
    model, axes = make_cp((6, 5))
    other, target = copy.deepcopy(model), random(2, 6, 5)
    extra = dict(batches=2, generator=torch.Generator().manual_seed(0)) if kind is IGA else {}
    method = kind(model, axes, k=2, update_every=100, **extra)
    for _ in range(2):
        fit(model, axes, target, torch.optim.Adam(model.parameters(), 1e-2), method, iterations=4)
    for _ in range(2):
        extra = dict(batches=2, generator=torch.Generator().manual_seed(0)) if kind is IGA else {}
        fresh = kind(other, axes, k=2, update_every=100, **extra)
        fit(other, axes, target, torch.optim.Adam(other.parameters(), 1e-2), fresh, iterations=4)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters()))


@pytest.mark.parametrize("kind", [SepPGD, MSK])
def test_steps_are_counted_and_a_step_decomposes_once(kind, make_cp, monkeypatch):
    model, axes = make_cp((4, 4))
    method, updates, original = kind(model, axes, k=2, update_every=3), [], kind.update
    monkeypatch.setattr(kind, "update", lambda self: updates.append(0) or original(self))
    R, counts = random(2, 4, 4), []
    for _ in range(7):
        method(R)
        counts.append(len(updates))
    assert counts == [1, 1, 1, 2, 2, 2, 3] and method.step == 7
    again = [method(R, 9), method(R, 9), method(R, 9)]
    assert len(updates) == 4 and torch.equal(again[0], again[2]) and method.step == 10
    method(R, 12)
    assert len(updates) == 5


@pytest.mark.parametrize("stop", [3, 4, 6])
@pytest.mark.parametrize("kind", [SepPGD, MSK, IGA])
def test_a_loop_of_one_s_own_resumes_from_state_dicts(kind, stop, make_cp):
    start, axes = make_cp((6, 5))
    target = random(2, 6, 5)

    def run(updates, state=None):
        model = copy.deepcopy(start)
        extra = dict(batches=2, generator=torch.Generator().manual_seed(0)) if kind is IGA else {}
        method = kind(model, axes, k=2, update_every=3, **extra)
        parts = model, torch.optim.Adam(model.parameters(), 1e-2), method
        for part, saved in zip(parts, state or ()):
            part.load_state_dict(saved)
        for _ in range(updates):
            Z = model.grid(axes)
            Z.register_hook(method)
            parts[1].zero_grad()
            nn.functional.mse_loss(Z, target).backward()
            parts[1].step()
        return [p.detach() for p in model.parameters()], copy.deepcopy([part.state_dict() for part in parts])

    whole, _ = run(9)
    _, state = run(stop)
    resumed, _ = run(9 - stop, state)
    assert all(torch.equal(a, b) for a, b in zip(whole, resumed))


def test_a_hook_at_scattered_points_and_under_a_constant_cotangent(make_cp):
    model, _ = make_cp((5, 4))
    X = random(7, 2)
    method, plain = SepPGD(model, X, k=2), model(X)
    output = model(X)
    output.register_hook(method)
    output.sum().backward()  # its cotangent is one number, expanded
    fast = torch.cat([p.grad.flatten() for p in model.parameters()])
    S = sum(modulation(pseudo_ntk(f, x.contiguous()), 2, "flat") for f, x in zip(model.factors, X.unbind(1)))
    slow = torch.autograd.grad(plain, list(model.parameters()), S.sum(-1))
    agree(fast, torch.cat([g.flatten() for g in slow]))


# --- schedulers, clipping, early stopping -----------------------------------------------------------------------------

schedulers = torch.optim.lr_scheduler
SCHEDULERS = {
    "step": lambda o: schedulers.StepLR(o, 2, 0.5),
    "several": lambda o: schedulers.MultiStepLR(o, [3, 7]),
    "cosine": lambda o: schedulers.CosineAnnealingLR(o, 12),
    "one cycle": lambda o: schedulers.OneCycleLR(o, 2e-2, total_steps=20),
    "plateau": lambda o: schedulers.ReduceLROnPlateau(o, patience=1, threshold=0.2),
    "function": lambda o: schedulers.LambdaLR(o, lambda t: 0.9**t),
    "in turn": lambda o: schedulers.SequentialLR(
        o, [schedulers.ConstantLR(o, 0.1, 4), schedulers.ExponentialLR(o, 0.9)], milestones=[4]
    ),
}


@pytest.fixture
def trained(make_cp, tmp_path):
    start, axes = make_cp((6, 5))

    def run(name="step", iterations=12, cut=None, patience=None, path=tmp_path / "run", every=3, **settings):
        def callback(state):
            if state.iteration == cut:
                raise KeyboardInterrupt
            best = [sum(entry) for entry in state.history.loss]
            if patience and len(best) > patience and min(best[-patience:]) >= min(best[:-patience]):
                raise Stop
            return {"rate": state.optimizer.param_groups[0]["lr"]}

        model = copy.deepcopy(start)
        optimizer = torch.optim.Adam(model.parameters(), 1e-2)
        scheduler = SCHEDULERS[name](optimizer) if name else None
        history = fit(
            model, axes, random(2, 6, 5), optimizer, SepPGD(model, axes, k=2, update_every=4), iterations, [callback],
            path, every, scheduler=scheduler, **settings,
        )  # fmt: skip
        return history.loss, history.metrics, [p.detach() for p in model.parameters()]

    return run


@pytest.mark.parametrize("cut", [5, 9])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_resumed_schedule_is_the_uninterrupted_one(name, cut, trained, tmp_path):
    whole = trained(name, clip=0.5, path=None)
    assert len(set(whole[1]["rate"])) > 1
    with pytest.raises(KeyboardInterrupt):
        trained(name, cut=cut, clip=0.5)
    assert (tmp_path / "run").exists()
    resumed = trained(name, clip=0.5)
    assert resumed[:2] == whole[:2] and all(torch.equal(a, b) for a, b in zip(resumed[2], whole[2]))


def test_an_early_stop_is_the_same_after_an_interruption(trained, tmp_path):
    whole = trained("", iterations=400, patience=6, path=None)
    stopped = len(whole[0]) - 1
    losses = [sum(entry) for entry in whole[0]]
    assert 6 < stopped < 400 and min(losses[-6:]) >= min(losses[:-6])
    assert len(whole[1]["rate"]) == stopped  # the callback that stops has nothing to report
    with pytest.raises(KeyboardInterrupt):
        trained("", iterations=400, patience=6, cut=stopped - 1)
    for every in (3, 3, stopped, stopped):  # a run that has stopped stops again, though a checkpoint be due just then
        resumed = trained("", iterations=400, patience=6, every=every)
        assert resumed[:2] == whole[:2] and all(torch.equal(a, b) for a, b in zip(resumed[2], whole[2]))


def test_clipping_is_torch_s_own(make_cp):
    model, axes = make_cp((6, 5))
    other, target = copy.deepcopy(model), 100 * random(2, 6, 5)
    fit(model, axes, target, torch.optim.SGD(model.parameters(), 1.0), iterations=1, clip=0.1)
    (0.5 * (other.grid(axes) - target) ** 2).sum().backward()
    gradient = torch.cat([p.grad.flatten() for p in other.parameters()])
    moved = torch.cat([(b - a).flatten() for a, b in zip(model.parameters(), other.parameters())]).detach()
    assert gradient.norm() > 1
    agree(moved, 0.1 * gradient / gradient.norm(), 1e-6)  # torch adds 1e-6 to the norm


def test_other_settings_of_a_schedule_are_another_run(trained):
    with pytest.raises(KeyboardInterrupt):
        trained("step", cut=5)
    with pytest.raises(
        ValueError, match=r"belongs to another run: its scheduler is StepLR, not CosineAnnealingLR; name"
    ):
        trained("cosine")
    with pytest.raises(ValueError, match=r"belongs to another run: its clip is None, not 1.0; name"):
        trained("step", clip=1.0)
    SCHEDULERS["faster"] = lambda o: schedulers.StepLR(o, 1, 0.5)
    with pytest.raises(ValueError, match=r"belongs to another run: its scheduler's step_size is 2, not 1; name"):
        trained("faster")
    del SCHEDULERS["faster"]
    with pytest.raises(ValueError, match=r"^clip must be positive, got -1$"):
        trained("step", clip=-1)


def test_the_scheduler_of_another_optimizer_is_refused(make_cp):
    model, axes = make_cp((4, 4))
    scheduler = schedulers.StepLR(torch.optim.SGD(model.parameters(), 1e-3), 2)
    with pytest.raises(ValueError, match=r"^the scheduler belongs to another optimizer than the one given$"):
        fit(model, axes, random(4, 4), scheduler=scheduler, iterations=1)


# --- factor networks of one's own -------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", [None, 3])
@pytest.mark.parametrize("parametrization", ["siren", "ntk", "torch"])
def test_the_kernel_of_any_module_is_that_of_the_layers(parametrization, encoding, generator):
    """Both ways to the pseudo-kernel, layer by layer and through torch.func, and the oracle."""
    features = encoding and FourierFeatures(encoding, 0.5, generator=generator)
    shape = dict(width=6, depth=3, omega=3.0, ensemble=2, encoding=features, generator=generator)
    factor = FactorMLP(4, parametrization=parametrization, **shape)
    x = torch.rand(7, generator=generator)
    agree(ntk.pseudo(Wrapped(factor), x), ntk.pseudo(factor, x))
    agree(ntk.pseudo(Wrapped(factor), x), pseudo_ntk(factor, x))


def test_the_kernel_of_a_factor_network_of_one_s_own(generator):
    factor, x = Polynomials(), torch.rand(6, generator=generator)
    rows = []
    for e in range(2):
        J = jacobian(factor(x)[e].sum(-1), [factor.coefficients, factor.stretch])  # not the frozen shift
        rows.append(J @ J.T)
    agree(ntk.pseudo(factor, x), torch.stack(rows))
    factor.requires_grad_(False)
    assert torch.equal(ntk.pseudo(factor, x), torch.zeros(2, 6, 6))


class Doubled(FactorMLP):
    """Inherits layers that no longer tell what it computes."""

    def forward(self, x):
        return 2 * super().forward(x)


def test_the_kernel_of_a_subclass_is_that_of_what_it_computes(generator):
    factor, x = Doubled(3, width=4, depth=2, omega=2.0, generator=generator), torch.rand(5, generator=generator)
    agree(ntk.pseudo(factor, x), pseudo_ntk(factor, x))


@pytest.mark.parametrize("sizes", SIZES[:2])
def test_seppgd_with_factor_networks_of_one_s_own(sizes, generator):
    model = CP([Polynomials(seed=d) for d in range(len(sizes))])
    axes = [torch.rand(n, generator=generator) for n in sizes]
    target, parameters = random(2, *sizes), [p for p in model.parameters() if p.requires_grad]
    Z = model.grid(axes)
    residual = (Z - target).detach()
    Z.register_hook(SepPGD(model, axes, k=2))
    ((Z - target) ** 2 / 2).sum().backward()
    slow = 0
    S = []
    for f, x in zip(model.factors, axes):
        kernels = [jacobian(f(x)[e].sum(-1), [f.coefficients, f.stretch]) for e in range(2)]
        S.append(modulation(torch.stack([J @ J.T for J in kernels]), 2, "flat"))
    for e in range(2):
        J = jacobian(cp_value(model, grid_points(axes))[e], parameters)
        slow = slow + J.T @ kronecker_sum([matrices[e] for matrices in S]) @ residual[e].flatten()
    agree(torch.cat([p.grad.flatten() for p in parameters]), slow)


@pytest.mark.parametrize("kind", ["CP", "TT", "Tucker"])
def test_every_form_takes_factor_networks_of_one_s_own(kind, generator):
    factors = [Polynomials(seed=d) for d in range(2)]
    model = {"CP": lambda: CP(factors), "TT": lambda: TT(factors, (4,)), "Tucker": lambda: Tucker(factors, (4, 4))}[
        kind
    ]()
    axes = [torch.linspace(-1, 1, n) for n in (6, 5)]
    agree(model.grid(axes).detach().flatten(1), model(grid_points(axes)).detach())
    method = SepPGD(model, axes, k=2) if kind == "CP" else None
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    history = fit(model, axes, random(2, 6, 5), optimizer, method, 60)
    assert sum(history.loss[-1]) < 0.9 * sum(history.loss[0])


def test_what_a_factor_network_lacks_is_named():
    with pytest.raises(TypeError, match=r"^a factor network needs the numbers rank and ensemble, Linear lacks them$"):
        CP([nn.Linear(1, 3), nn.Linear(1, 3)])
    model = CP([Polynomials() for _ in range(2)])
    with pytest.raises(TypeError, match=r"^the NTK is known for factors of type FactorMLP, got Polynomials$"):
        ntk.empirical(model, torch.zeros(3, 2))


# --- saving -----------------------------------------------------------------------------------------------------------


def shared(generator):
    factor = FactorMLP(3, width=4, depth=2, generator=generator)
    return CP([factor, FactorMLP(3, width=5, depth=2, generator=generator), factor])


SAVED = {
    "CP": lambda g: CP([FactorMLP(3, width=4, depth=3, ensemble=2, omega=w, generator=g) for w in (3.0, 7.0)]),
    "CP without scale": lambda g: CP([FactorMLP(3, width=4, depth=2, generator=g) for _ in range(3)], None),
    "CP of rank 1": lambda g: CP([FactorMLP(1, width=4, depth=2, generator=g) for _ in range(2)]),
    "TT": lambda g: TT([FactorMLP(r, width=4, depth=2, generator=g) for r in (2, 6, 3)], (2, 3)),
    "Tucker": lambda g: Tucker([FactorMLP(r, width=4, depth=2, generator=g) for r in (2, 3)], (2, 3), g),
    "MLP": lambda g: MLP(2, width=6, depth=3, activation="gelu", generator=g),
    "encoding": lambda g: CP([FactorMLP(3, width=4, depth=2, encoding=FourierFeatures(5, 2.0, generator=g)) for _ in "ab"]),
    "one layer": lambda g: CP([FactorMLP(3, width=4, depth=1, parametrization="ntk", generator=g) for _ in range(2)]),
    "ntk": lambda g: CP([FactorMLP(3, width=4, depth=3, parametrization="ntk", generator=g) for _ in range(2)]),
    "ntk of width 1": lambda g: CP([FactorMLP(3, width=1, depth=2, parametrization="ntk", generator=g) for _ in "ab"]),
    "one network in two places": shared,
    "float32": lambda g: CP([FactorMLP(3, width=4, depth=2, dtype=torch.float32) for _ in range(2)]),
} | {
    name: lambda g, name=name: CP([FactorMLP(3, width=4, depth=3, activation=name, generator=g) for _ in range(2)])
    for name in activations.NAMES
}  # fmt: skip


@pytest.mark.parametrize("name", SAVED)
def test_a_network_comes_back_from_its_file(name, generator, tmp_path):
    model = SAVED[name](generator)
    dims, kind = len(model.factors) if hasattr(model, "factors") else 2, next(model.parameters()).dtype
    X, before = random(6, dims).to(kind), torch.get_rng_state()
    seplib.save(model, tmp_path / "model")
    loaded = seplib.load(tmp_path / "model")
    assert torch.equal(torch.get_rng_state(), before), "loading draws nothing"
    assert type(loaded) is type(model) and torch.equal(loaded(X), model(X)) and loaded(X).dtype == kind
    loaded(X).square().sum().backward()
    model(X).square().sum().backward()
    pairs = list(zip(model.parameters(), loaded.parameters(), strict=True))
    assert pairs and all(torch.equal(a.grad, b.grad) for a, b in pairs)
    seplib.save(loaded, tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == (tmp_path / "model").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again", "model"]


def test_a_file_holds_no_pickle_and_reading_runs_no_code(tmp_path, make_cp):
    model, _ = make_cp((4, 4))
    seplib.save(model, tmp_path / "model")
    data = (tmp_path / "model").read_bytes()
    with np.load(io.BytesIO(data.partition(b"\n")[2]), allow_pickle=False) as stored:
        assert all(stored[name].dtype.kind in "fuU" for name in stored.files)
    for place in range(0, len(data), len(data) // 40):
        spoilt = bytearray(data)
        spoilt[place] ^= 4
        (tmp_path / "model").write_bytes(spoilt)
        with pytest.raises(ValueError, match=r"model is damaged, or not written by seplib\.save: it"):
            seplib.load(tmp_path / "model")
    (tmp_path / "model").write_bytes(b"")
    with pytest.raises(ValueError, match=r"not written by seplib\.save: it does not begin as a network$"):
        seplib.load(tmp_path / "model")
    with pytest.raises(FileNotFoundError, match="nothing"):
        seplib.load(tmp_path / "nothing")


def test_a_full_disk_leaves_the_old_network(tmp_path, make_cp, monkeypatch):
    model, _ = make_cp((4, 4))
    seplib.save(model, tmp_path / "model")
    before = (tmp_path / "model").read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*model'"):
        seplib.save(CP([FactorMLP(2, width=4, depth=2) for _ in range(2)]), tmp_path / "model")
    assert (tmp_path / "model").read_bytes() == before and len(list(tmp_path.iterdir())) == 1


class Encoding(FourierFeatures):
    pass


def test_what_cannot_be_saved_is_named(tmp_path, generator):
    own = activations.Activation("cubed", lambda z: z**3, lambda z: 3 * z**2, lambda z: 6 * z, torch.ones_like)
    refused = {
        "Polynomials": [Polynomials() for _ in range(2)],
        "'cubed'": [FactorMLP(3, width=4, depth=2, activation=own) for _ in range(2)],
        "the encoding Encoding": [FactorMLP(3, width=4, depth=2, encoding=Encoding(2, 1.0)) for _ in range(2)],
    }
    for name, factors in refused.items():
        with pytest.raises(TypeError, match=rf"^seplib\.save knows .*, not {name}; save its state_dict\(\), and load"):
            seplib.save(CP(factors), tmp_path / "model")
    assert not list(tmp_path.iterdir())


OTHERS = {
    "omega": (dict(omega=5.0), "of a network with omega 3.0, this one has 5.0"),
    "activation": (dict(activation="tanh"), "of a network with activation sine, this one has tanh"),
    "parametrization": (dict(parametrization="ntk"), "of a network with scales [1.0, 1.0, 1.0], this one has [1.0, "),
    "scale": (dict(scale=None), "of a network with scale 0.5, this one has 1.0"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_weights_of_another_function_are_refused(name, make_cp):
    model, _ = make_cp((4, 4))
    settings, line = OTHERS[name]
    other, _ = make_cp((4, 4), **settings)
    before = [p.detach().clone() for p in other.parameters()]
    with pytest.raises(ValueError, match=re.escape(f"these are weights {line}")):
        other.load_state_dict(model.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(before, other.parameters())), "nothing was taken"


def test_a_state_dict_can_be_cut_and_copied_and_is_checked_all_the_same(make_cp):
    model, axes = make_cp((4, 4))
    one = {name: value[1:].clone() for name, value in model.state_dict().items()}
    alone, _ = make_cp((4, 4), ensemble=1)
    alone.load_state_dict(one)
    agree(alone.grid(axes).detach(), model.grid(axes)[1:].detach())
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    buffer.seek(0)
    other, _ = make_cp((4, 4), omega=5.0)
    with pytest.raises(ValueError, match=r"omega 3\.0, this one has 5.0"):
        other.load_state_dict(torch.load(buffer))
    one["_extra_state"] = one["_extra_state"][:, 3:]
    with pytest.raises(ValueError, match="does not say whose weights it holds: damaged _extra_state"):
        alone.load_state_dict(one)


# --- torch's own tools ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SAVED)
def test_torch_saves_and_copies_a_whole_network(name, generator):
    model = SAVED[name](generator)
    dims = len(model.factors) if hasattr(model, "factors") else 2
    X = random(6, dims).to(next(model.parameters()).dtype)
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    for other in (copy.deepcopy(model), torch.load(buffer, weights_only=False)):
        assert torch.equal(other(X), model(X))
        next(other.parameters()).data += 1
        assert not torch.equal(other(X), model(X))


def test_an_activation_of_one_s_own_is_not_taken_for_the_library_s():
    """Its name may be one of ours: it is pickled as it is, which lambdas refuse and functions allow."""
    tanh = activations.get("tanh")
    assert copy.deepcopy(tanh).source == ("tanh", 1.0)
    changed = dataclasses.replace(tanh, value=torch.sin, slope=torch.cos, curvature=torch.neg, third=torch.neg)
    assert changed.source is None and copy.deepcopy(changed).value is torch.sin


@pytest.mark.parametrize("name", ["CP", "TT", "Tucker", "MLP"])
def test_calling_a_network_is_asking_at_points_or_on_a_grid(name, generator):
    model = SAVED[name](generator)
    dims = len(model.factors) if hasattr(model, "factors") else 2
    X, axes = random(6, dims), [random(n, seed=n) for n in range(3, 3 + dims)]
    assert torch.equal(model(X), model.points(X)) and torch.equal(model(axes), model.grid(axes))
    parameters = {key: 1.5 * p.detach() for key, p in model.named_parameters()}
    stretched = copy.deepcopy(model)
    with torch.no_grad():
        for p in stretched.parameters():
            p.mul_(1.5)
    for inputs in (X, axes):
        agree(torch.func.functional_call(model, parameters, (inputs,)), stretched(inputs).detach())
    both = {key: torch.stack([p.detach(), 1.5 * p.detach()]) for key, p in model.named_parameters()}
    for inputs in (X, axes):
        found = torch.vmap(lambda p, inputs=inputs: torch.func.functional_call(model, p, (inputs,)))(both)
        agree(found, torch.stack([model(inputs), stretched(inputs)]).detach())
    slow = torch.autograd.grad(model(axes).square().sum(), list(model.parameters()))
    fast = torch.func.grad(lambda p: torch.func.functional_call(model, p, (axes,)).square().sum())(
        dict(model.named_parameters())
    )
    for a, b in zip(fast.values(), slow, strict=True):
        agree(a.detach(), b)


def test_the_cp_product_can_be_differentiated_twice():
    factors = [random(2, n, 3).requires_grad_() for n in (3, 4, 2)]
    assert torch.autograd.gradcheck(cp_tensor, factors)
    assert torch.autograd.gradgradcheck(cp_tensor, factors)


COMPILED = """
import torch
from seplib import CP, FactorMLP, SepPGD
torch.set_default_dtype(torch.float64)
model = CP([FactorMLP(4, width=6, depth=3, omega=3.0, ensemble=2) for _ in range(2)])
axes, X = [torch.rand(6), torch.rand(5)], torch.rand(9, 2)
fast = torch.compile(model, backend="eager", fullgraph=True)
assert torch.equal(fast(X), model(X)) and torch.equal(fast(axes), model(axes))
method = SepPGD(model, axes, k=2)
gradients = []
for network in (model, fast):
    model.zero_grad()
    Z = network(axes)
    Z.register_hook(method)
    Z.square().sum().backward()
    gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
assert torch.equal(*gradients)
print("compiled")
"""


def test_a_network_can_be_compiled():
    """In an interpreter of its own: the run-time type checks of the tests cannot be traced."""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", COMPILED], capture_output=True, text=True)
    assert done.stdout == "compiled\n", done.stderr[-2000:]


# --- data -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["CP", "TT", "Tucker", "MLP"])
def test_numpy_arrays_are_data(name, generator):
    model = SAVED[name](generator)
    dims = len(model.factors) if hasattr(model, "factors") else 2
    X, axes = random(6, dims), [random(n, seed=n) for n in range(3, 3 + dims)]
    arrays = [x.numpy()[::-1] for x in axes]  # a view
    arrays[0].flags.writeable = False
    turned = [x.flip(0) for x in axes]
    assert torch.equal(model(X.numpy()), model(X)) and torch.equal(model(arrays), model(turned))
    single = copy.deepcopy(model).float()
    assert single(X.numpy()).dtype == single(arrays).dtype == torch.float32


@pytest.mark.parametrize("where", ["grid", "points"])
def test_fit_takes_numpy_arrays(where, make_cp):
    model, axes = make_cp((6, 5))
    axes = axes if where == "grid" else random(6, 2)
    shape = (6, 5) if where == "grid" else (6,)
    target, mask, other = random(*shape), random(*shape, seed=2) < 0.5, copy.deepcopy(model)
    fit(model, axes, target, preconditioner=SepPGD(model, axes, k=2), iterations=3, mask=mask)
    arrays = [x.numpy() for x in axes] if where == "grid" else axes.numpy()
    method = SepPGD(other, arrays, k=2)
    fit(other, arrays, target.numpy(), preconditioner=method, iterations=3, mask=mask.numpy())
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters()))
    single = copy.deepcopy(other).float()
    inputs = [x.float() for x in axes] if where == "grid" else axes.float()
    fit(single, inputs, target, iterations=1)  # a target takes the network's precision


def test_other_dtypes_and_devices_are_refused_in_one_line(make_cp):
    model, axes = make_cp((4, 4))
    X, single, far = random(3, 2), [x.float() for x in axes], [x.to("meta") for x in axes]
    both = "torch.float32 on cpu, the network is torch.float64 on cpu$"
    for call, line in {
        "axis": (lambda: model.grid(single), f"^the axis is {both}"),
        "points": (lambda: model(X.float()), f"^the array of points is {both}"),
        "factor": (lambda: model.factors[0](single[0]), f"^the input is {both}"),
        "method": (lambda: SepPGD(model, single, k=2), f"^the axis is {both}"),
        "MSK": (lambda: MSK(model, X.float(), k=2), f"^the array of points is {both}"),
        "kernel": (lambda: ntk.empirical(model, X.float()), f"^the array of points is {both}"),
        "fit": (lambda: fit(model, single, random(4, 4)), f"^the axis is {both}"),
        "MLP": (lambda: MLP(2, width=4, depth=2)(X.float()), f"^the array of points is {both}"),
        "device": (lambda: model.grid(far), "^the axis is torch.float64 on meta, the network is torch.float64 on cpu$"),
        "target": (lambda: fit(model, axes, torch.empty(4, 4, device="meta")), "^the target is torch.float64 on meta, the"),
        "mask": (
            lambda: fit(model, axes, random(4, 4), mask=torch.ones(4, 4, dtype=torch.bool, device="meta")),
            "^the mask is on meta, the target on cpu$",
        ),
        "integers": (lambda: model.grid([torch.arange(4)] * 2), "^the axis is torch.int64 on cpu, the network is"),
        "factors": (
            lambda: CP([FactorMLP(3, width=4, depth=2, dtype=t) for t in (torch.float32, torch.float64)]),
            "^the factors share one dtype and device, got torch.float32 on cpu, torch.float64 on cpu$",
        ),
    }.values():  # fmt: skip
        with pytest.raises(ValueError, match=line):
            call()


# --- equations --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["CP", "MLP"])
def test_an_optimizer_over_the_network_s_parameters_trains_an_equation(kind, generator):
    """Adam over the network's own parameters and over the flat tensor that they are views of: the same numbers."""
    shape = dict(width=6, depth=3, omega=2.0, generator=generator)
    start = CP([FactorMLP(4, **shape) for _ in range(3)]) if kind == "CP" else MLP(3, **shape)
    axes = pde.HELMHOLTZ.axes(5)
    target = pde.HELMHOLTZ.values(axes)

    def trained(own: bool):
        model = copy.deepcopy(start)
        methods = {"data": SepPGD(model, axes, 2)} if kind == "CP" else {}
        early = torch.optim.Adam(model.parameters(), 1e-2)
        loss = PhysicsLoss(pde.HELMHOLTZ, model, axes, target, dict.fromkeys(LOSSES, 1.0), methods)
        optimizer = early if own else torch.optim.Adam([loss.parameter], 1e-2)
        history = descend(loss, model, optimizer, loss, iterations=20)
        flat = torch.cat([p.grad.flatten() for p in model.parameters()])
        assert flat.norm() == pytest.approx(loss.fields.gradient.norm().item(), rel=1e-12)
        return model, history

    (model, history), (other, same) = trained(True), trained(False)
    assert sum(history.loss[-1]) < 0.9 * sum(history.loss[0])
    agree(torch.tensor(history.loss), torch.tensor(same.loss), 1e-12)
    for a, b, before in zip(model.parameters(), other.parameters(), start.parameters()):
        agree(a.detach(), b.detach(), 1e-12)
        assert not torch.equal(a, before)


def test_a_loss_that_has_served_one_run_begins_anew_in_the_next(generator):
    """The kernels of the first run's beginning are not those of the second's."""
    model = CP([FactorMLP(4, width=6, depth=3, omega=2.0, generator=generator) for _ in range(3)])
    axes = pde.HELMHOLTZ.axes(5)
    methods = {"data": SepPGD(model, axes, 2, update_every=10**9)}
    loss = PhysicsLoss(pde.HELMHOLTZ, model, axes, pde.HELMHOLTZ.values(axes), dict(data=1.0), methods)
    seen = []
    for _ in range(2):
        descend(loss, model, torch.optim.Adam([loss.parameter], 1e-2), loss, iterations=5)
        seen.append(methods["data"].operator().dense())
    assert not torch.allclose(*seen)


@pytest.mark.parametrize("move", ["to", "another loss"])
def test_a_loss_whose_network_has_moved_away_says_so(move, generator):
    model = CP([FactorMLP(4, width=6, depth=3, omega=2.0, generator=generator) for _ in range(3)])
    axes = pde.HELMHOLTZ.axes(5)
    arguments = pde.HELMHOLTZ, model, axes, pde.HELMHOLTZ.values(axes), dict.fromkeys(LOSSES, 1.0)
    loss = PhysicsLoss(*arguments)
    loss.forward()
    if move == "to":
        model.float()
    else:
        PhysicsLoss(*arguments)
    with pytest.raises(
        RuntimeError, match=r"parameters have moved since the loss was made, by \.to\(\) or another loss"
    ):
        loss.forward()


# --- several outputs --------------------------------------------------------------------------------------------------


def test_copies_along_the_ensemble_axis_are_several_outputs(make_cp):
    """Each output trains as a network of its own would: same weights, same numbers."""
    model, axes = make_cp((6, 5), ensemble=3)
    start, target = copy.deepcopy(model.state_dict()), random(3, 6, 5)
    fit(model, axes, target, torch.optim.Adam(model.parameters(), 1e-2), SepPGD(model, axes, k=2), 10)
    for output in range(3):
        alone, _ = make_cp((6, 5), ensemble=1)
        alone.load_state_dict({name: value[output : output + 1] for name, value in start.items()})
        fit(alone, axes, target[output], torch.optim.Adam(alone.parameters(), 1e-2), SepPGD(alone, axes, k=2), 10)
        agree(model.grid(axes)[output].detach(), alone.grid(axes)[0].detach(), 1e-8)
