"""Lemmas 1 and 3 and Eq. (10) against autograd Jacobians, and the operators against their matrices."""

import math

import dense
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seplib import CP, MLP, TT, FactorMLP, FourierFeatures, Tucker, ntk
from seplib.operators import KroneckerOperator

F64 = torch.float64


def factors(ranks, *, ensemble=1, seed=0, **kwargs):
    generator = torch.Generator().manual_seed(seed)
    shape = dict(width=7, depth=3, activation="tanh", omega=1.0, dtype=F64) | kwargs
    return [FactorMLP(r, ensemble=ensemble, generator=generator, **shape) for r in ranks]


def points(n, dims, seed=1):
    return torch.rand(n, dims, dtype=F64, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def axes_of(*sizes, seed=2):
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(n, dtype=F64, generator=generator) * 2 - 1 for n in sizes]


def oracle(model, X, X2=None):
    """``J J'^T`` copy by copy, from one backward pass a point."""
    parameters = list(model.parameters())

    def rows(points, copy):
        return dense.jacobian(model.points(points)[copy], parameters)

    copies = range(model.points(X[:1]).shape[0])
    return torch.stack([rows(X, e) @ rows(X if X2 is None else X2, e).T for e in copies])


MODELS = {
    "cp2": lambda: CP(factors([5, 5], ensemble=2)),
    "cp3": lambda: CP(factors([4, 4, 4], width=6, parametrization="ntk", activation="gelu")),
    "cp4": lambda: CP(factors([3, 3, 3, 3], depth=2, parametrization="ntk")),
    "cp-unscaled": lambda: CP(factors([5, 5]), scale=None),
    "cp-linear-factors": lambda: CP(factors([3, 3], depth=1)),
    "cp-deep": lambda: CP(factors([3, 3], depth=5, parametrization="torch", activation="sine", omega=2.0)),
    "cp-fourier": lambda: CP(factors([3, 3], encoding=FourierFeatures(3, 1.0, dtype=F64))),
    "tt": lambda: TT(factors([2, 6, 3], ensemble=2), ranks=(2, 3)),
    "tucker": lambda: Tucker(factors([2, 3, 4], ensemble=2), ranks=(2, 3, 4)),
    "mlp": lambda: MLP(3, width=6, depth=3, activation="erf", ensemble=2, dtype=F64),
    "mlp-linear": lambda: MLP(3, width=6, depth=1, ensemble=2, dtype=F64),
}
DIMS = dict.fromkeys(MODELS, 2) | {"cp3": 3, "cp4": 4, "tt": 3, "tucker": 3, "mlp": 3, "mlp-linear": 3}


@pytest.mark.parametrize("name", MODELS)
def test_the_kernel_at_points_is_the_product_of_the_jacobians(name):
    model, X = MODELS[name](), points(5, DIMS[name])
    dense.agree(ntk.empirical(model, X), oracle(model, X))


@pytest.mark.parametrize("name", MODELS)
def test_the_kernel_between_two_sets_of_points(name):
    model, X, X2 = MODELS[name](), points(4, DIMS[name]), points(3, DIMS[name], seed=5)
    K = ntk.empirical(model, X, X2)
    dense.agree(K, oracle(model, X, X2))
    dense.agree(ntk.empirical(model, X2, X), K.mT)


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_blocks_are_the_kernels_between_outputs(depth):
    (factor,) = factors([3], depth=depth, ensemble=2, parametrization="ntk")
    (x,) = axes_of(4)
    slow = []
    for e in range(2):
        J = dense.jacobian(factor(x)[e].T, list(factor.parameters())).reshape(3, 4, -1)
        slow.append(torch.einsum("rip,sjp->rsij", J, J))
    dense.agree(ntk.blocks(factor, x), torch.stack(slow))


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_pseudo_is_the_kernel_of_the_summed_outputs(depth):
    (factor,) = factors([3], depth=depth, ensemble=2)
    (x,) = axes_of(5)
    dense.agree(ntk.pseudo(factor, x), dense.pseudo_ntk(factor, x))
    dense.agree(ntk.pseudo(factor, x), ntk.blocks(factor, x).sum((1, 2)))


GRIDS = {
    "2d": lambda: (CP(factors([3, 3], ensemble=2)), axes_of(4, 5)),
    "2d-unscaled": lambda: (CP(factors([3, 3], depth=2), scale=None), axes_of(5, 3)),
    "2d-linear": lambda: (CP(factors([3, 3], depth=1)), axes_of(4, 3)),
    "3d": lambda: (CP(factors([3, 3, 3], depth=2, parametrization="ntk", ensemble=2)), axes_of(2, 4, 3)),
    "4d": lambda: (CP(factors([2, 2, 2, 2], width=5)), axes_of(2, 3, 1, 2)),
}


@pytest.mark.parametrize("name", GRIDS)
def test_the_grid_operator_is_the_kernel_at_the_grid_points(name):
    model, axes = GRIDS[name]()
    operator, slow = ntk.grid(model, axes), oracle(model, dense.grid_points(axes))
    dense.agree(operator.dense(), slow)
    v = torch.randn(slow.shape[0], slow.shape[1], dtype=F64, generator=torch.Generator().manual_seed(3))
    image = torch.stack([K @ row for K, row in zip(slow, v)])
    dense.agree(operator.matvec(v), image)
    tensor = v.reshape(-1, *(x.numel() for x in axes))
    dense.agree(operator.matvec(tensor), image.reshape(tensor.shape))


@pytest.mark.parametrize("name", GRIDS)
def test_the_pseudo_operator_replaces_the_blocks(name):
    model, axes = GRIDS[name]()
    operator, X = ntk.pseudo_grid(model, axes), dense.grid_points(axes)
    index = torch.cartesian_prod(*(torch.arange(x.numel()) for x in axes))
    slow = 0
    for d, (factor, x) in enumerate(zip(model.factors, axes)):
        a = math.prod(f(X[:, e].contiguous()) for e, f in enumerate(model.factors) if e != d)
        K = dense.pseudo_ntk(factor, x) / factor.rank
        slow = slow + model.scale**2 * (a @ a.mT) * K[:, index[:, d]][:, :, index[:, d]]
    dense.agree(operator.dense(), slow.detach())
    v = torch.randn(slow.shape[:2], dtype=F64, generator=torch.Generator().manual_seed(3))
    dense.agree(operator.matvec(v), (slow @ v[..., None])[..., 0].detach())


@pytest.mark.parametrize("build", [ntk.grid, ntk.pseudo_grid])
@pytest.mark.parametrize("k", [1, 4, 30])
def test_top_eigenpairs_by_lanczos_and_by_the_dense_matrix(build, k):
    model, axes = CP(factors([6, 6], ensemble=2, depth=2, parametrization="ntk")), axes_of(6, 5)
    operator = build(model, axes)
    values, vectors = operator.eigsh(k)
    slow = torch.linalg.eigvalsh(operator.dense()).flip(-1)[:, :k]
    dense.agree(values, slow, 1e-9)
    image = torch.stack([operator.matvec(vectors[..., i]) for i in range(k)], -1)
    assert (image - vectors * values[:, None]).abs().max() < 1e-9 * values.max()
    gram = vectors.mT @ vectors
    dense.agree(gram, torch.eye(k, dtype=F64).expand_as(gram).contiguous(), 1e-9)


def test_lanczos_finds_both_eigenvectors_of_a_double_eigenvalue():
    values = torch.tensor([1.0, 1.0, 0.5, 0.25, 0.1, 0.05], dtype=F64)
    operator = KroneckerOperator([[torch.diag(values)[None], torch.eye(6, dtype=F64)[None] * 2]])
    top, _ = operator.eigsh(8)
    assert torch.allclose(top, torch.full((1, 8), 2.0, dtype=F64), rtol=1e-12)


def test_kronecker_operator_is_the_sum_of_kronecker_products():
    generator = torch.Generator().manual_seed(0)
    draws = [torch.randn(1, n, n, dtype=F64, generator=generator) for n in (2, 3, 2, 2, 3, 2)]
    A = [draw + draw.mT for draw in draws]
    operator = KroneckerOperator([A[:3], A[3:]])
    slow = sum(torch.kron(torch.kron(a[0], b[0]), c[0]) for a, b, c in (A[:3], A[3:]))
    dense.agree(operator.dense(), slow[None])
    v = torch.randn(12, dtype=F64, generator=generator)
    dense.agree(operator.matvec(v), slow @ v)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from(["cp2", "cp4", "tt", "tucker", "mlp"]))
def test_kernels_are_symmetric_positive_and_follow_permutations_and_batches(seed, name):
    model, X = MODELS[name](), points(6, DIMS[name], seed)
    K = ntk.empirical(model, X)
    size = K.abs().max()
    assert (K - K.mT).abs().max() <= 1e-13 * size
    assert torch.linalg.eigvalsh(K).min() >= -1e-12 * size
    order = torch.randperm(6, generator=torch.Generator().manual_seed(seed))
    dense.agree(ntk.empirical(model, X[order]), K[:, order][:, :, order])
    dense.agree(torch.cat([ntk.empirical(model, X[:2], X), ntk.empirical(model, X[2:], X)], 1), K)


def test_an_ensemble_is_its_members_one_by_one():
    model, X = CP(factors([4, 4], ensemble=3)), points(5, 2)
    K = ntk.empirical(model, X)
    for e in range(3):
        member = CP(factors([4, 4]))
        for single, batch in zip(member.parameters(), model.parameters()):
            single.data.copy_(batch.data[e : e + 1])
        dense.agree(ntk.empirical(member, X), K[e : e + 1])


def test_training_goes_on_unharmed_and_no_graph_is_kept():
    model, X = CP(factors([4, 4])), points(5, 2)
    K = ntk.empirical(model, X)
    assert not K.requires_grad
    assert all(p.grad is None for p in model.parameters())


def test_refusals():
    model, axes = CP(factors([3, 3])), axes_of(4, 5)
    with pytest.raises(ValueError, match=r"points of shape \(N, 2\), got \(5, 3\)"):
        ntk.empirical(model, points(5, 3))
    with pytest.raises(ValueError, match=r"points of shape \(N, 2\), got \(4,\)"):
        ntk.empirical(model, points(5, 2), axes[0])
    with pytest.raises(TypeError, match="CP, TT, Tucker and MLP networks, got Linear"):
        ntk.empirical(torch.nn.Linear(2, 1), points(5, 2))
    foreign = torch.nn.Linear(1, 3)
    foreign.rank, foreign.ensemble = 3, 1
    for build in (lambda m: ntk.empirical(m, points(5, 2)), lambda m: ntk.grid(m, axes)):
        with pytest.raises(TypeError, match="factors of type FactorMLP, got Linear"):
            build(CP([foreign, foreign]))
        with pytest.raises(ValueError, match="share no parameters, got one network in two places"):
            build(CP([model.factors[0]] * 2))
    with pytest.raises(TypeError, match="CP network, got MLP"):
        ntk.grid(MLP(2, width=4, depth=2, dtype=F64), axes)
    with pytest.raises(ValueError, match="takes 2 axes"):
        ntk.grid(model, axes_of(3, 4, 5))
    with pytest.raises(ValueError, match=r"1 x 20 numbers, for a grid of \(4, 5\); got a tensor of shape \(21,\)"):
        ntk.grid(model, axes).matvec(torch.ones(21, dtype=F64))
    with pytest.raises(ValueError, match="k must be between 1 and the number of grid points, 20, got 21"):
        ntk.grid(model, axes).eigsh(21)
    with pytest.raises(ValueError, match="same D shapes"):
        KroneckerOperator([[torch.eye(2)[None], torch.eye(3)[None]], [torch.eye(3)[None], torch.eye(2)[None]]])
