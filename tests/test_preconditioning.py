"""The methods beside SepPGD on a grid: scattered points, streaming, MSK, IGA, spectra; prior facts as properties."""

import copy
import math

import pytest
import torch
from dense import agree, cp_value, grid_points, jacobian, kronecker_sum, modulation, pseudo_ntk
from hypothesis import given
from hypothesis import strategies as st

from seplib import CP, IGA, MLP, MSK, FactorMLP, SepPGD, baselines, fit, ntk, preconditioning
from seplib.preconditioning import modulate, top_eigenpairs
from seplib.ridge import Linearised
from seplib.streaming import FullResidual, StreamedResidual

SIZES = [(6, 4), (4, 3, 5), (3, 2, 4, 2)]


def random(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def psd(n, seed, rank=None):
    A = random(n, rank or n, seed=seed)
    return A @ A.T


def gradient(model):
    return torch.cat([p.grad.flatten() for p in model.parameters()])


@pytest.fixture
def make_mlp(generator):
    def make(dims, **kwargs):
        kwargs = {"width": 6, "depth": 3, "omega": 3.0, "ensemble": 2, **kwargs}
        return MLP(dims, generator=generator, **kwargs)

    return make


# --- scattered points -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", ["rank", None])
@pytest.mark.parametrize("g", preconditioning.MODULATIONS)
@pytest.mark.parametrize("dims", [2, 3, 4])
def test_scattered_gradient_equals_the_summed_preconditioner(dims, g, scale, make_cp):
    """The non-grid form after Lemma 2: grad f(X)^T (S_1 + ... + S_D) r, one kernel for each coordinate."""
    model, _ = make_cp((2,) * dims, scale=scale)
    X = random(9, dims).tanh()
    target = random(2, 9, seed=2)
    values = model.points(X)
    residual = values.detach() - target
    method = SepPGD(model, X, k=3, g=g)
    values.backward(method(residual, 0))
    slow = 0
    S = [modulation(pseudo_ntk(f, X[:, d]), 3, g) for d, f in enumerate(model.factors)]
    for e in range(2):
        J = jacobian(cp_value(model, X)[e], list(model.parameters()))
        slow = slow + J.T @ sum(matrices[e] for matrices in S) @ residual[e]
    agree(gradient(model), slow)
    agree(method.operator().dense(), sum(S))


def test_fit_takes_scattered_points(make_cp):
    model, _ = make_cp((2, 2))
    X, target = random(12, 2).tanh(), random(2, 12, seed=3)
    history = fit(
        model, X, target, torch.optim.SGD(model.parameters(), 1e-3), SepPGD(model, X, k=4), 30,
        callbacks=[lambda state: {"error": state.residual.square().sum() / 2}],
    )  # fmt: skip
    assert history.metrics["error"] == pytest.approx([sum(entry) for entry in history.loss])
    assert sum(history.loss[-1]) < sum(history.loss[0])


# --- streaming --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preconditioned", [False, True])
@pytest.mark.parametrize("scale", ["rank", None])
@pytest.mark.parametrize("sizes", SIZES)
def test_streamed_step_equals_the_full_one(sizes, scale, preconditioned, make_cp):
    model, axes = make_cp(sizes, scale=scale)
    target = random(2, *sizes)
    method = SepPGD(model, axes, k=2) if preconditioned else None
    results = []
    for kind in (FullResidual, StreamedResidual):
        model.zero_grad()
        step = kind(model, axes, target, method)
        step.forward()
        loss = step.loss()
        step.backward(0)
        results.append((loss, gradient(model), step.prediction()))
    for streamed, full in zip(results[1], results[0]):
        agree(streamed, full)


def test_streamed_run_equals_the_full_one_through_preconditioner_updates(make_cp):
    start, axes = make_cp((4, 3, 5))
    target, runs = random(2, 4, 3, 5), []
    for streamed in (False, True):
        model = copy.deepcopy(start)
        optimizer = torch.optim.Adam(model.parameters(), 1e-2)
        method = SepPGD(model, axes, k=2, update_every=3)
        history = fit(model, axes, target, optimizer, method, iterations=10, streamed=streamed)
        runs.append((torch.tensor(history.loss), model.grid(axes).detach()))
    agree(runs[1][0], runs[0][0], 1e-9)
    agree(runs[1][1], runs[0][1], 1e-8)


def test_a_streamed_step_forms_nothing_of_the_grids_size(make_cp):
    model, axes = make_cp((12, 20, 16), ensemble=1)
    target = random(1, 12, 20, 16)
    largest = [0]

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            for out in result if isinstance(result, tuple | list) else [result]:
                if isinstance(out, torch.Tensor) and out.untyped_storage().data_ptr() != target.data_ptr():
                    largest[0] = max(largest[0], out.numel())
            return result

    with Watch(), pytest.MonkeyPatch.context() as patch:
        patch.setattr("seplib.tensorops.SLAB", 256)
        step = StreamedResidual(model, axes, target, SepPGD(model, axes, k=2))
        step.forward()
        step.loss()
        step.backward(0)
    assert 0 < largest[0] <= target.numel() / 4


# --- the whole kernel: MSK and IGA ------------------------------------------------------------------------------------


@pytest.mark.parametrize("g", preconditioning.MODULATIONS)
@pytest.mark.parametrize("solver", preconditioning.SOLVERS)
@pytest.mark.parametrize("kind", ["cp grid", "cp points", "mlp grid", "mlp points"])
def test_msk_gradient_equals_the_explicit_one(kind, solver, g, make_cp, make_mlp):
    model, axes = make_cp((5, 4))
    if kind.startswith("mlp"):
        model = make_mlp(2)
    inputs = axes if kind.endswith("grid") else random(20, 2).tanh()
    X = grid_points(axes) if kind.endswith("grid") else inputs
    output = model.grid(inputs) if kind.endswith("grid") else model.points(inputs)
    residual = random(*output.shape)
    output.backward(MSK(model, inputs, k=4, g=g, solver=solver)(residual, 0))
    slow = 0
    for e in range(2):
        J = jacobian(model.points(X)[e], list(model.parameters()))
        K = J @ J.T
        S = modulation(K[None], 4, g)[0]
        slow = slow + J.T @ S @ residual[e].flatten()
    agree(gradient(model), slow, 1e-9)


@pytest.mark.parametrize("g", preconditioning.MODULATIONS)
def test_iga_serves_one_batch_after_the_other(g, make_cp):
    model, axes = make_cp((6, 4))
    X = grid_points(axes)
    method = IGA(model, axes, batches=3, k=2, update_every=2, g=g, generator=torch.Generator().manual_seed(0))
    batches = [set(rows.tolist()) for rows in method.batches]
    assert set().union(*batches) == set(range(24)) and sum(map(len, batches)) == 24
    R = random(2, 6, 4)
    for iteration in range(4):
        rows = method.batches[iteration % 3]
        result = method(R, iteration).flatten(1)
        for e in range(2):
            J = jacobian(cp_value(model, X)[e], list(model.parameters()))[rows]
            S = modulation((J @ J.T)[None], 2, g)[0]
            agree(result[e, rows], 3 * S @ R[e].flatten()[rows], 1e-9)
        rest = torch.ones(24, dtype=torch.bool)
        rest[rows] = False
        assert (result[:, rest] == 0).all()


def test_iga_with_one_batch_is_msk(make_cp):
    model, axes = make_cp((5, 4))
    R = random(2, 5, 4)
    agree(IGA(model, axes, batches=1, k=5)(R, 0), MSK(model, axes, k=5, solver="full")(R, 0))


def test_batch_kernels_are_renewed_on_schedule(make_cp, monkeypatch):
    model, axes = make_cp((4, 4))
    made = []
    original = ntk.empirical
    monkeypatch.setattr(ntk, "empirical", lambda *args: made.append(0) or original(*args))
    method = IGA(model, axes, batches=2, k=2, update_every=4)
    counts = []
    for iteration in range(8):
        method(torch.ones(2, 4, 4), iteration)
        counts.append(len(made))
    assert counts == [1, 2, 2, 2, 3, 4, 4, 4]
    made.clear()
    method, counts = MSK(model, axes, k=2, update_every=3), []
    for iteration in range(7):
        method(torch.ones(2, 4, 4), iteration)
        counts.append(len(made))
    assert counts == [1, 1, 1, 2, 2, 2, 3]


@pytest.mark.parametrize("method", [MSK, IGA, SepPGD])
def test_every_method_resumes_to_the_same_numbers(method, make_cp, tmp_path):
    start, axes = make_cp((5, 4))
    target = random(2, 5, 4)

    def run(iterations, path=None):
        model = copy.deepcopy(start)
        settings = dict(k=2, update_every=4)
        if method is IGA:
            settings |= dict(batches=2, generator=torch.Generator().manual_seed(0))
        optimizer = torch.optim.Adam(model.parameters(), 1e-2)
        preconditioner = method(model, axes, **settings)
        return fit(model, axes, target, optimizer, preconditioner, iterations, checkpoint=path, checkpoint_every=3).loss

    whole = run(11)
    path = tmp_path / "run.pt"
    run(8, path)  # ends between two saves and between two updates of the preconditioner
    assert run(11, path) == whole


def test_msk_asks_for_the_solver_named(make_cp, monkeypatch):
    model, axes = make_cp((5, 4))
    asked, original = [], preconditioning.top_eigenpairs
    monkeypatch.setattr(preconditioning, "top_eigenpairs", lambda *args: asked.append(args[-1]) or original(*args))
    for solver in preconditioning.SOLVERS:
        MSK(model, axes, k=2, solver=solver).update()
    assert tuple(asked) == preconditioning.SOLVERS


@pytest.mark.parametrize("k", [1, 3, 20])
def test_lanczos_finds_the_top_of_the_spectrum(k):
    K = torch.stack([psd(90, 0), psd(90, 1)])
    for fast, slow in zip(top_eigenpairs(K, k, "lanczos"), top_eigenpairs(K, k, "full")):
        agree(fast.abs(), slow.abs(), 1e-8)


# --- facts about the preconditioned kernel ----------------------------------------------------------------------------


@given(
    seed=st.integers(0, 10_000),
    n=st.integers(3, 8),
    k=st.integers(1, 8),
    g=st.sampled_from(preconditioning.MODULATIONS),
)
def test_the_preconditioner_is_positive_definite(seed, n, k, g):
    """Without that the weighted loss of the next test were no norm."""
    values = torch.linalg.eigvalsh(modulate(psd(n, seed)[None], min(k, n), g).dense())
    assert values.min() > 0
    assert g == "sqrt" or values.max() <= 1 + 1e-12


@given(seed=st.integers(0, 10_000))
def test_the_step_descends_in_the_weighted_loss(seed):
    """d/dt of r^T S r / 2 along the preconditioned flow is minus the squared norm of the step, for any S > 0."""
    generator = torch.Generator().manual_seed(seed)
    factors = [FactorMLP(3, width=5, depth=2, omega=2.0, generator=generator, dtype=torch.float64) for _ in range(2)]
    model, axes = CP(factors), [torch.rand(n, generator=generator) for n in (4, 5)]
    method, R = SepPGD(model, axes, k=2), random(1, 4, 5, seed=seed)
    X = grid_points(axes)
    J = jacobian(model.points(X)[0], list(model.parameters()))
    S = kronecker_sum([p.dense()[0] for p in method.current(0)])
    step = -J.T @ method(R, 0).flatten()
    agree(R.flatten() @ S @ (J @ step), -step.square().sum(), 1e-9)


@given(seed=st.integers(0, 10_000), k=st.integers(1, 5))
def test_proposition_msk_never_worsens_the_condition_number(seed, k):
    K = psd(6, seed) + 0.01 * torch.eye(6)
    values = torch.linalg.eigvals(K @ modulate(K[None], k).dense()[0]).real
    before = torch.linalg.eigvalsh(K)
    assert values.max() / values.min() <= before.max() / before.min() * (1 + 1e-9)
    assert values.max() == pytest.approx(before.flip(0)[k - 1].item())


@given(seed=st.integers(0, 10_000), k=st.integers(1, 3), sizes=st.sampled_from([(4, 5), (3, 4, 3)]))
def test_proposition_kronecker_sum_kernel(seed, k, sizes):
    """For K = sum_d I x K_d x I the condition number moves by a factor between (D - 1)/D^2 and D, whatever k is."""
    kernels = [psd(n, seed + d) + 0.01 * torch.eye(n) for d, n in enumerate(sizes)]
    S = kronecker_sum([modulate(K[None], k).dense()[0] for K in kernels])
    K = kronecker_sum(kernels)
    after, before = (condition(K, S), condition(K, torch.eye(len(K))))
    D = len(sizes)
    assert (D - 1) / D**2 * before * (1 - 1e-9) <= after <= D * before * (1 + 1e-9)


@given(seed=st.integers(0, 10_000), k=st.integers(1, 3), sizes=st.sampled_from([(4, 5), (3, 4, 3)]))
def test_proposition_kronecker_product_kernel(seed, k, sizes):
    """For K = K_1 x ... x K_D it falls at least by the mean of lambda_k / lambda_1."""
    kernels = [psd(n, seed + d) + 0.01 * torch.eye(n) for d, n in enumerate(sizes)]
    S = kronecker_sum([modulate(K[None], k).dense()[0] for K in kernels])
    K = kernels[0]
    for other in kernels[1:]:
        K = torch.kron(K, other)
    values = [torch.linalg.eigvalsh(kernel).flip(0) for kernel in kernels]
    share = sum((v[k - 1] / v[0]).item() for v in values) / len(sizes)
    assert condition(K, S) <= share * condition(K, torch.eye(len(K))) * (1 + 1e-9)


def condition(K, S):
    root = torch.linalg.cholesky(S)
    values = torch.linalg.eigvalsh(root.T @ K @ root)
    return (values.max() / values.min()).item()


# --- convergence on a known spectrum ----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["plain", "SepPGD", "MSK"])
def test_the_residual_follows_the_powers_of_the_preconditioned_kernel(method, make_cp):
    """Linear model, gradient descent: r_t = (I - eta K S)^t r_0 exactly."""
    model, axes = make_cp((5, 4), ensemble=1)
    K = ntk.empirical(model, grid_points(axes))[0]
    preconditioner = {"plain": None, "SepPGD": SepPGD(model, axes, k=2), "MSK": MSK(model, axes, k=6)}[method]
    if method == "plain":
        S = torch.eye(20)
    elif method == "MSK":
        S = modulation(K[None], 6, "flat")[0]
    else:
        S = kronecker_sum([modulation(pseudo_ntk(f, x), 2, "flat")[0] for f, x in zip(model.factors, axes)])
    linear = Linearised(model)
    eta = 1 / torch.linalg.eigvals(K @ S).real.max().item()
    seen = {}
    fit(
        linear, axes, random(5, 4), torch.optim.SGD(linear.parameters(), eta), preconditioner, 40,
        callbacks=[lambda state: seen.update({state.iteration: state.residual.flatten()})],
    )  # fmt: skip
    for t in (1, 7, 40):
        agree(seen[t], torch.linalg.matrix_power(torch.eye(20) - eta * K @ S, t) @ seen[0], 1e-9)


def test_order_of_the_methods_on_a_product_spectrum(make_cp):
    """K = K_1 x K_2 with known eigenvalues: each method at its own best step, to a residual of 1e-3."""
    values = 2.0 ** -torch.arange(6.0)
    Q = torch.linalg.qr(random(6, 6)).Q
    K1 = (Q * values) @ Q.T
    K = torch.kron(K1, K1)
    S1 = modulate(K1[None], 4).dense()[0]
    methods = {
        "plain": torch.eye(36),
        "SepPGD": kronecker_sum([S1, S1]),
        "MSK": modulate(K[None], 20).dense()[0],
    }
    needed = {}
    for name, S in methods.items():
        eigenvalues = torch.linalg.eigvals(K @ S).real
        A = torch.eye(36) - 2 / (eigenvalues.max() + eigenvalues.min()) * K @ S
        r, t = torch.ones(36), 0
        while r.norm() > 6e-3:
            r, t = A @ r, t + 1
        needed[name] = t
    assert needed["MSK"] < needed["SepPGD"] < needed["plain"] / 4


# --- errors -----------------------------------------------------------------------------------------------------------


def test_bad_arguments_are_named(make_cp, make_mlp):
    model, axes = make_cp((5, 4))
    X = random(9, 2)
    with pytest.raises(ValueError, match=r"one tensor \(2, 2\): points\?"):
        model.grid(torch.zeros(2, 2))
    with pytest.raises(ValueError, match=r"points of shape \(N, 2\), got \(9, 3\)"):
        SepPGD(model, torch.zeros(9, 3))
    with pytest.raises(ValueError, match=r"k must be between 1 and the number of points, 9 points, got 10"):
        SepPGD(model, X, k=10)
    with pytest.raises(ValueError, match=r"made for a grid of shape \(5, 4\), got a residual \(2, 9\)"):
        SepPGD(model, axes, k=2)(torch.zeros(2, 9), 0)
    with pytest.raises(ValueError, match=r"made for scattered points of shape \(9,\), got a residual \(2, 5, 4\)"):
        SepPGD(model, X, k=2)(torch.zeros(2, 5, 4), 0)
    with pytest.raises(ValueError, match=r"k must be between 1 and the number of points, 20 points, got 21"):
        MSK(model, axes, k=21)
    with pytest.raises(ValueError, match=r"batches must be between 1 and the number of points 20, got 0"):
        IGA(model, axes, batches=0)
    with pytest.raises(ValueError, match=r"k must be between 1 and the smallest batch, 6 points, got 7"):
        IGA(model, axes, batches=3, k=7)
    with pytest.raises(ValueError, match=r"solver must be one of full, lanczos, got 'qr'"):
        MSK(model, axes, k=2, solver="qr")
    with pytest.raises(ValueError, match=r"solver must be one of full, lanczos, got 'qr'"):
        modulate(torch.eye(3)[None], 1, solver="qr")
    with pytest.raises(ValueError, match=r"k must be between 1 and the kernel's size, 3 points, got 0"):
        top_eigenpairs(torch.eye(3)[None], 0)
    for method in (MSK(model, axes, k=2), IGA(model, axes, k=2)):
        with pytest.raises(ValueError, match=r"made for 20 points, got a residual \(2, 6, 5\)"):
            method(torch.zeros(2, 6, 5), 0)
    target = torch.zeros(2, 5, 4)
    with pytest.raises(TypeError, match=r"only a CP network can be streamed, got MLP"):
        fit(make_mlp(2), axes, target, streamed=True)
    with pytest.raises(ValueError, match=r"only a grid can be streamed, got scattered points \(9, 2\)"):
        fit(model, X, torch.zeros(2, 9), streamed=True)
    with pytest.raises(TypeError, match=r"takes SepPGD or no preconditioner, got MSK"):
        fit(model, axes, target, preconditioner=MSK(model, axes, k=2), streamed=True)
    with pytest.raises(ValueError, match=r"a streamed target needs 2 copies, got 1"):
        fit(model, axes, target[0], streamed=True)
    with pytest.raises(ValueError, match=r"target must be \(E, \*\(9,\)\) for these axes, got \(2, 8\)"):
        fit(model, X, torch.zeros(2, 8))


def test_as_points_keeps_the_order_of_vec():
    axes = [torch.arange(2.0), torch.arange(3.0), torch.arange(2.0)]
    assert torch.equal(baselines.as_points(axes), grid_points(axes))
    assert math.prod(len(x) for x in axes) == len(baselines.as_points(axes))
