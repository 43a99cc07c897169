import itertools
import math

import pytest
import torch
from dense import agree
from hypothesis import given
from hypothesis import strategies as st

from seplib import tensorops
from seplib.tensorops import cp_product, khatri_rao, mode_product, mttkrp, unfold

shapes = st.lists(st.integers(1, 5), min_size=2, max_size=4)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def outer_sum(factors):
    """Eq. (2) entry by entry."""
    E, R = factors[0].shape[0], factors[0].shape[-1]
    result = torch.zeros(E, *(f.shape[1] for f in factors))
    for e in range(E):
        for r in range(R):
            term = factors[0][e, :, r]
            for f in factors[1:]:
                term = term[..., None] * f[e, :, r]
            result[e] += term
    return result


@given(shapes, st.data())
def test_unfolding_makes_the_fibres_rows(shape, data):
    mode = data.draw(st.integers(0, len(shape) - 1))
    T = draw(2, *shape)
    M = unfold(T, mode)
    assert M.shape == (2, math.prod(shape) // shape[mode], shape[mode])
    rest = [n for d, n in enumerate(shape) if d != mode]
    for row, place in enumerate(itertools.product(*map(range, rest))):
        assert torch.equal(M[:, row], T[(slice(None), *place[:mode], slice(None), *place[mode:])])


@given(shapes, st.data())
def test_mode_product_is_the_kronecker_product_of_its_place(shape, data):
    mode = data.draw(st.integers(0, len(shape) - 1))
    T, A = draw(2, *shape), draw(2, 3, shape[mode], seed=1)
    for e in range(2):
        kron = torch.ones(1, 1)
        for d, n in enumerate(shape):
            kron = torch.kron(kron, A[e] if d == mode else torch.eye(n))
        agree(mode_product(T, A, mode)[e].flatten(), kron @ T[e].flatten())


def test_mode_product_takes_one_matrix_for_all_copies():
    T, A = draw(2, 3, 4), draw(5, 3, seed=1)
    agree(mode_product(T, A, 0), mode_product(T, A.expand(2, 5, 3), 0))


@given(shapes, st.integers(1, 3))
def test_unfolding_of_a_cp_tensor_is_khatri_rao_times_factor(shape, rank):
    factors = [draw(2, n, rank, seed=d) for d, n in enumerate(shape)]
    T = outer_sum(factors)
    for d, factor in enumerate(factors):
        rest = [f for other, f in enumerate(factors) if other != d]
        agree(unfold(T, d), khatri_rao(rest) @ factor.mT)


@pytest.mark.parametrize("slab", [1, 7, 1 << 21])
@pytest.mark.parametrize("shape", [(4, 3), (5, 3, 4), (3, 4, 2, 3), (2, 3, 2, 2, 3)])
def test_streamed_products_equal_the_definitions(shape, slab, monkeypatch):
    monkeypatch.setattr(tensorops, "SLAB", slab)
    factors = [draw(2, n, 3, seed=d) for d, n in enumerate(shape)]
    agree(cp_product(factors), outer_sum(factors))
    T = draw(2, *shape, seed=9)
    for d, M in enumerate(mttkrp(T, factors)):
        rest = [f for other, f in enumerate(factors) if other != d]
        agree(M, unfold(T, d).mT @ khatri_rao(rest))


def test_streaming_never_forms_more_than_a_slab(monkeypatch):
    monkeypatch.setattr(tensorops, "SLAB", 64)
    seen = []
    original = tensorops.khatri_rao
    monkeypatch.setattr(tensorops, "khatri_rao", lambda fs: seen.append(original(fs)) or seen[-1])
    factors = [draw(1, 6, 4, seed=d) for d in range(3)]
    cp_product(factors)
    mttkrp(draw(1, 6, 6, 6), factors)
    assert seen and max(block.numel() for block in seen) <= 64


def test_wrong_shapes_are_refused_by_name():
    T = torch.zeros(1, 3, 4)
    with pytest.raises(ValueError, match=r"mode must be 0 to 1 for a tensor with 2 modes, got 2"):
        unfold(T, 2)
    with pytest.raises(ValueError, match=r"mode 1 has size 4, but the matrix has 3 columns"):
        mode_product(T, torch.eye(3), 1)
    with pytest.raises(ValueError, match=r"at least 2 factors, got 1"):
        cp_product([torch.zeros(1, 3, 2)])
    with pytest.raises(ValueError, match=r"one E and one R, got \[\(1, 3, 2\), \(1, 4, 3\)\]"):
        cp_product([torch.zeros(1, 3, 2), torch.zeros(1, 4, 3)])
    with pytest.raises(ValueError, match=r"the tensor is \(3, 4\), but the factors have \(3, 5\) rows"):
        mttkrp(T, [torch.zeros(1, 3, 2), torch.zeros(1, 5, 2)])


@pytest.mark.parametrize("threads", [1, 2])
def test_copies_one_by_one_give_the_bits_of_the_batch(threads, generator):
    """Stored runs rely on it: which way is faster depends on the machine, the numbers must not."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for dtype in (torch.float32, torch.float64):
            a = torch.randn(3, 300, 300, generator=generator).to(dtype)
            b = torch.randn(3, 300, 300, generator=generator).to(dtype)
            assert tensorops.one_by_one(a, b) == (threads == 2)
            assert torch.equal(tensorops.product(a, b.mT), a @ b.mT)
    finally:
        torch.set_num_threads(before)


def test_only_equal_batches_are_taken_apart():
    a, b = torch.zeros(3, 512, 512), torch.zeros(1, 512, 512)
    assert not tensorops.one_by_one(a, b) and not tensorops.one_by_one(b, a)
    assert not tensorops.one_by_one(a.to("meta"), a.to("meta"))
    assert tensorops.product(a, b).shape == (3, 512, 512)
