"""Definition 1 and Lemma 2: the separable preconditioned gradient against explicit Kronecker products."""

import pytest
import torch
from dense import agree, cp_value, grid_points, jacobian, kronecker_sum, modulation, pseudo_ntk

from seplib import MLP, SepPGD, ntk, preconditioning
from seplib.preconditioning import cotangents, modulate

SIZES = [(5, 4), (4, 3, 5), (3, 2, 4, 2)]


@pytest.mark.parametrize("parametrization", ["siren", "ntk", "torch"])
@pytest.mark.parametrize("depth", [1, 2, 4])
def test_pseudo_ntk_equals_the_jacobian_product(parametrization, depth, make_cp):
    model, axes = make_cp((6, 3), parametrization=parametrization, depth=depth)
    for factor, x in zip(model.factors, axes):
        K = ntk.pseudo(factor, x)
        agree(K, pseudo_ntk(factor, x))
        assert torch.linalg.eigvalsh(K).min() > -1e-12 * K.abs().max()


@pytest.mark.parametrize("g", preconditioning.MODULATIONS)
@pytest.mark.parametrize("k", [1, 2, 5])
def test_modulation_is_the_eigenvalue_map_of_section_4(g, k):
    A = torch.randn(2, 5, 5, generator=torch.Generator().manual_seed(0))
    K = A @ A.mT
    S = modulate(K, k, g)
    agree(S.dense(), modulation(K, k, g))
    values = torch.linalg.eigvalsh(K).flip(-1)
    wanted = values.clone()
    last = values[:, k - 1 : k]
    wanted[:, :k] = {"flat": last, "sqrt": values[:, :k].sqrt(), "geometric": last**0.5 * values[:, :k].sqrt()}[g]
    product = torch.linalg.eigvals(K @ S.dense()).real
    agree(product.sort(-1).values, wanted.sort(-1).values)
    T = torch.randn(2, 3, 5, 2, generator=torch.Generator().manual_seed(1))
    agree(S.apply(T, 1), torch.einsum("eij,eajb->eaib", S.dense(), T))


@pytest.mark.parametrize("g", preconditioning.MODULATIONS)
def test_only_g_2_notices_the_unit_of_the_kernel(g):
    A = torch.randn(2, 5, 5, generator=torch.Generator().manual_seed(0))
    K = A @ A.mT
    same = torch.allclose(modulate(K, 3, g).dense(), modulate(100 * K, 3, g).dense(), atol=1e-10)
    assert same == (g != "sqrt")
    if g == "geometric":
        last = torch.linalg.eigvalsh(K)[:, 2, None, None]
        agree(modulate(K, 3, g).dense(), modulate(K / last, 3, "sqrt").dense())


def test_modulation_leaves_a_flat_spectrum_alone():
    S = modulate(3 * torch.eye(4)[None], 2)
    assert torch.equal(S.dense()[0], torch.eye(4))


def test_eigenvalues_lost_in_rounding_cannot_turn_the_sign():
    v = torch.tensor([1.0, 2.0, -1.0, 0.5])
    K = torch.outer(v, v)[None]  # rank one: the other eigenvalues are rounding errors of either sign
    S = modulate(K, 4)
    assert (S.damping >= 0).all() and (S.damping <= 1).all()


@pytest.mark.parametrize("g", preconditioning.MODULATIONS)
def test_a_kernel_of_zeros_is_left_alone(g):
    assert torch.equal(modulate(torch.zeros(1, 3, 3), 2, g).dense()[0], torch.eye(3))


@pytest.mark.parametrize("scale", ["rank", None])
@pytest.mark.parametrize("g", preconditioning.MODULATIONS)
@pytest.mark.parametrize("sizes", SIZES)
def test_gradient_equals_the_kronecker_preconditioned_one(sizes, g, scale, make_cp):
    model, axes = make_cp(sizes, scale=scale)
    target = torch.randn(2, *sizes, generator=torch.Generator().manual_seed(1))
    method = SepPGD(model, axes, k=2, g=g)
    prediction = model.grid(axes)
    residual = prediction.detach() - target
    prediction.backward(method(residual, 0))
    fast = torch.cat([p.grad.flatten() for p in model.parameters()])

    X, slow = grid_points(axes), 0
    S = [modulation(pseudo_ntk(f, x), 2, g) for f, x in zip(model.factors, axes)]
    for e in range(2):
        J = jacobian(cp_value(model, X)[e], list(model.parameters()))
        slow = slow + J.T @ kronecker_sum([matrices[e] for matrices in S]) @ residual[e].flatten()
    agree(fast, slow)


@pytest.mark.parametrize("sizes", SIZES)
def test_cotangents_are_the_matrices_of_eq_8(sizes, make_cp):
    model, axes = make_cp(sizes)
    F = [f(x).detach() for f, x in zip(model.factors, axes)]
    S = [modulate(ntk.pseudo(f, x), 2) for f, x in zip(model.factors, axes)]
    R = torch.randn(2, *sizes, generator=torch.Generator().manual_seed(1))
    letters = "abcd"[: len(sizes)]
    summed = sum(
        torch.einsum(f"e{letters},e{letters[d]}z->e{letters.replace(letters[d], 'z')}", R, s.dense())
        for d, s in enumerate(S)
    )
    for d, M in enumerate(cotangents(F, R, S)):
        rest = [f"e{letters[o]}r" for o in range(len(sizes)) if o != d]
        slow = torch.einsum(
            f"e{letters},{','.join(rest)}->e{letters[d]}r", summed, *(F[o] for o in range(len(sizes)) if o != d)
        )
        agree(M, slow)


def test_flat_kernels_make_the_step_d_times_the_plain_one(make_cp, monkeypatch):
    model, axes = make_cp((4, 3, 5))
    monkeypatch.setattr(ntk, "pseudo", lambda factor, x: torch.eye(x.numel()).expand(2, -1, -1))
    R = torch.randn(2, 4, 3, 5, generator=torch.Generator().manual_seed(1))
    agree(SepPGD(model, axes, k=2)(R, 0), 3 * R)


def test_preconditioned_gradient_is_a_descent_direction(make_cp):
    model, axes = make_cp((6, 5))
    R = torch.randn(2, 6, 5, generator=torch.Generator().manual_seed(1))
    assert (R * SepPGD(model, axes, k=3)(R, 0)).flatten(1).sum(1).min() > 0


def test_preconditioners_are_renewed_on_schedule(make_cp, monkeypatch):
    model, axes = make_cp((4, 4))
    method, updates = SepPGD(model, axes, k=2, update_every=3), []
    original = SepPGD.update
    monkeypatch.setattr(SepPGD, "update", lambda self: updates.append(0) or original(self))
    counts = []
    for iteration in range(7):
        method(torch.ones(2, 4, 4), iteration)
        counts.append(len(updates))
    assert counts == [1, 1, 1, 2, 2, 2, 3]


def test_bad_arguments_are_named(make_cp):
    model, axes = make_cp((5, 3))
    with pytest.raises(ValueError, match=r"k must be between 1 and the shortest axis, 3 points, got 4"):
        SepPGD(model, axes, k=4)
    with pytest.raises(ValueError, match=r"update_every must be at least 1, got 0"):
        SepPGD(model, axes, k=2, update_every=0)
    with pytest.raises(ValueError, match=r"modulation g must be one of flat, sqrt, geometric, got 'log'"):
        SepPGD(model, axes, k=2, g="log")
    with pytest.raises(ValueError, match=r"takes 2 axes"):
        SepPGD(model, axes[:1], k=2)
    with pytest.raises(TypeError, match=r"SepPGD preconditions a CP network, got MLP"):
        SepPGD(MLP(2, width=4, depth=2), axes)
    with pytest.raises(ValueError, match=r"k must be between 1 and the kernel's size, 3 points, got 0"):
        modulate(torch.eye(3)[None], 0)
    with pytest.raises(ValueError, match=r"shape \(E, n, n\), got \(3, 3\)"):
        modulate(torch.eye(3), 1)
    with pytest.raises(ValueError, match=r"must be symmetric, but K and its transpose differ by 1"):
        modulate(torch.tensor([[[1.0, 1.0], [0.0, 1.0]]]), 1)
    with pytest.raises(ValueError, match=r"kernel holds NaN"):
        modulate(torch.full((1, 2, 2), float("nan")), 1)
    with pytest.raises(ValueError, match=r"residual with 2 modes takes 2 preconditioners, got 1"):
        cotangents([torch.ones(1, 2, 1)] * 2, torch.ones(1, 2, 2), [modulate(torch.eye(2)[None], 1)])
