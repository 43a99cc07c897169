"""Condition numbers before and after preconditioning, against the same in 60 digits, and what double precision decides."""

import mpmath as mp
import numpy as np
import pandas as pd
import pytest
import torch
from dense import agree
from hypothesis import given
from hypothesis import strategies as st

from seplib import CP, FactorMLP, SepPGD
from seplib.baselines import as_points
from seplib.ridge import features
from seplib.studies.seppgd import spectra

VALUE = {"sine": mp.sin, "tanh": mp.tanh, "relu": lambda z: max(z, mp.mpf(0)), "gelu": lambda z: z * mp.ncdf(z)}
SLOPE = {
    "sine": mp.cos,
    "tanh": lambda z: mp.sech(z) ** 2,
    "relu": lambda z: mp.mpf(z > 0),
    "gelu": lambda z: mp.ncdf(z) + z * mp.npdf(z),
}


@pytest.fixture(autouse=True)
def _digits():
    with mp.workdps(60):
        yield


def psd(n, seed):
    A = torch.randn(n, n, generator=torch.Generator().manual_seed(seed))
    return A @ A.T + 0.1 * torch.eye(n)


def network(activation, sizes, *, seed=0, rank=4, width=6, omega=1.0, parametrization="torch", depth=3):
    generator = torch.Generator().manual_seed(seed)
    kind = dict(activation=activation, width=width, omega=omega, parametrization=parametrization, depth=depth)
    model = CP([FactorMLP(rank, **kind, generator=generator) for _ in sizes])
    return model, [2 * torch.rand(n, generator=generator) - 1 for n in sizes], omega if activation == "sine" else 1.0


# --- the same in 60 digits --------------------------------------------------------------------------------------------


def exact(tensor):
    return mp.matrix(tensor.detach().double().tolist())


def tape(factor, x, omega):
    """Outputs of a factor at one coordinate, the layers' inputs and the hidden slopes, of the weights as they are stored."""
    name, h, inputs, slopes = factor.activation.name, mp.matrix([mp.mpf(x)]), [], []
    for layer in range(factor.depth):
        scale = mp.mpf(factor.weights[layer].shape[-1]) ** -0.5 if factor.scales[layer] != 1 else mp.mpf(1)
        z = scale * (exact(factor.weights[layer][0]) * h)
        if layer < len(factor.biases):
            z += exact(factor.biases[layer][0])
        inputs.append((scale, h))
        if layer < factor.depth - 1:
            slopes.append([omega * SLOPE[name](omega * entry) for entry in z])
            h = mp.matrix([VALUE[name](omega * entry) for entry in z])
    return z, inputs, slopes


def gradient(factor, record, cotangent):
    """Of <cotangent, outputs> in all weights and biases, backwards through the layers."""
    _, inputs, slopes = record
    found, delta = [], mp.matrix(cotangent)
    for layer in reversed(range(factor.depth)):
        scale, h = inputs[layer]
        found += [scale * d * entry for d in delta for entry in h]
        found += list(delta) if layer < len(factor.biases) else []
        if layer:
            delta = scale * (exact(factor.weights[layer][0]).T * delta)
            delta = mp.matrix([d * slope for d, slope in zip(delta, slopes[layer - 1])])
    return found


def gram(rows):
    return mp.matrix([[mp.fdot(a, b) for b in rows] for a in rows])


def modulated(K, k):
    """S of Sec. 4 with g_1, eigenpair by eigenpair."""
    values, vectors = mp.eigsy(K)
    S = mp.eye(K.rows)
    for i in range(K.rows - k, K.rows):
        S -= (1 - values[K.rows - k] / values[i]) * (vectors[:, i] * vectors[:, i].T)
    return S


def condition(K):
    values = mp.eigsy(K, eigvals_only=True)
    return values[K.rows - 1] / values[0]


def oracle(model, axes, k, omega):
    """cond(K) and cond(K S~) in 60 digits."""
    tapes = [[tape(f, x.item(), omega) for x in axis] for f, axis in zip(model.factors, axes)]
    ones = [1] * model.factors[0].rank
    S = [modulated(gram([gradient(f, t, ones) for t in ts]), k) for f, ts in zip(model.factors, tapes)]
    rows = []
    grid = list(np.ndindex(*map(len, axes)))
    for at in grid:
        row = []
        for d, factor in enumerate(model.factors):
            others = [tapes[e][at[e]][0] for e in range(len(axes)) if e != d]
            cotangent = [mp.mpf(len(ones)) ** -0.5 * mp.fprod(f[r] for f in others) for r in range(len(ones))]
            row += gradient(factor, tapes[d][at[d]], cotangent)
        rows.append(row)
    total = mp.matrix(len(grid), len(grid))
    for i, a in enumerate(grid):
        for j, b in enumerate(grid):
            for d in range(len(axes)):
                if all(a[e] == b[e] for e in range(len(axes)) if e != d):
                    total[i, j] += S[d][a[d], b[d]]
    L, K = mp.cholesky(total), gram(rows)
    return condition(K), condition(L.T * K * L)


def in_double(model, axes, k):
    X, method = as_points(axes), SepPGD(model, axes, k)
    phi, S = features(model, X), method.operator().dense()[0]
    rounding = spectra.feature_rounding(model, X, phi)
    return spectra.conditioning(phi, S, rounding, spectra._damping(method.preconditioners))


CASES = [
    ("tanh", (5, 4), 2, dict(width=8, rank=8)),
    ("tanh", (4, 4), 3, dict(depth=2, width=8)),
    ("gelu", (3, 2, 3), 2, dict(parametrization="ntk")),
    ("relu", (4, 3), 2, dict(parametrization="siren", width=16, rank=8)),
    ("sine", (4, 3), 2, dict(omega=30.0, parametrization="ntk")),
    ("sine", (3, 3), 3, dict(omega=3.0, parametrization="siren")),
]


@pytest.mark.parametrize(("activation", "sizes", "k", "kind"), CASES, ids=[f"{c[0]}-{c[1]}" for c in CASES])
def test_double_precision_errs_by_no_more_than_its_bound(activation, sizes, k, kind):
    model, axes, omega = network(activation, sizes, **kind)
    before, after = oracle(model, axes, k, omega)
    found = in_double(model, axes, k)
    off = abs(mp.log(found.ratio) - mp.log(after / before))
    assert off <= found.error < 1e-5
    # Not for want of an error: the rounding of a number known to the last bit would not cover it.
    assert off > 2 * spectra.UNIT_ROUNDOFF


def test_one_modulated_eigenvalue_leaves_the_condition_number_as_it_is():
    """K = 1: S~ = D I. In double precision the quotient would be 1 up to the error, here it is 1 and says that it is."""
    model, axes, omega = network("tanh", (5, 4), width=8, rank=8)
    before, after = oracle(model, axes, 1, omega)
    assert abs(after / before - 1) < 1e-30
    found = in_double(model, axes, 1)
    assert found.ratio == 1 and found.error == 0 and found.plain > 1e15
    noisy = spectra.conditioning(features(model, as_points(axes)), 2 * torch.eye(20) + 1e-12 * psd(20, 0), 1e-15, 1.0)
    assert noisy.ratio != 1 and abs(np.log(noisy.ratio)) < noisy.error


def test_condition_numbers_are_those_of_the_product():
    phi = torch.randn(5, 9, generator=torch.Generator().manual_seed(0))
    K, S = phi @ phi.T, psd(5, 1)
    slow = torch.linalg.eigvals(K @ S).real.sort(descending=True).values
    agree(spectra.preconditioned_eigenvalues(K, S), slow, 1e-9)
    found = spectra.conditioning(phi, S, 1e-16, 1.0)
    assert found.preconditioned == pytest.approx((slow[0] / slow[-1]).item())
    assert found.plain == pytest.approx(torch.linalg.cond(K).item())
    assert found.ratio == pytest.approx(found.preconditioned / found.plain)


def test_condition_numbers_beyond_the_reach_of_eigenvalues():
    phi = torch.diag(torch.tensor([1.0, 1e-10]))
    found = spectra.conditioning(phi, torch.diag(torch.tensor([2.0, 1.0])), 1e-16, 1.0)
    assert found[:2] == pytest.approx((1e20, 2e20))
    # Each smallest singular value is known to sqrt(2) 1e-16 and 1e-16 of 1, so to about 1e-6 of its own 1e-10.
    assert found.error == pytest.approx(2 * (1 + 2**0.5) * 1e-6, rel=1e-3)


def test_the_rounding_of_features_grows_with_the_frequency_and_is_not_below_the_points():
    found = []
    for omega in (1.0, 30.0):
        model, axes, _ = network("sine", (4, 3), omega=omega, parametrization="ntk")
        X = as_points(axes)
        before = [p.clone() for p in model.parameters()]
        found.append(spectra.feature_rounding(model, X, features(model, X)))
        assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before)), "the network is left as it was"
    assert 12 * 2.0**-53 < found[0] < found[1] / 5
    assert found[0] < 100 * (6 + 3) * 2.0**-53


@given(st.floats(1e-3, 1e3), st.floats(0, 2), st.floats(0.5, 3))
def test_a_ratio_is_decided_only_outside_its_error(ratio, error, bound):
    (outcome,) = spectra.compare(pd.Series([ratio]), pd.Series([error]), bound)
    low, high = ratio * np.exp(-error), ratio * np.exp(error)
    if outcome == "above":
        assert low > bound * (1 - 1e-12)
    elif outcome == "not above":
        assert high <= bound * (1 + 1e-12)
    else:
        assert low <= bound * (1 + 1e-12) and high > bound * (1 - 1e-12)


def test_undecided_instances_count_neither_way():
    wide = pd.DataFrame({"ratio": [1.2, 1.3, 0.5], "error": [1e-6, 0.5, 1e-6], "cond S": [2.0, 1.1, 1.0], "D": 2})
    wide[["ratio (MSK)", "error (MSK)"]] = [[0.9, 1e-6], [1.1, 0.5], [0.8, 1e-6]]
    worse, decided = spectra.violations(wide)
    assert list(worse.index) == [0] and list(decided.index) == [0, 2]
    narrow = wide.assign(ratio=1.0, error=0.0)  # k = 1
    found = spectra.statements(wide, narrow)
    assert {name: case.value for name, case in found.items()} == pytest.approx(
        {
            "none worsened by SepPGD": 1.2,
            "none worsened by MSK": 0.9,
            "cond(KS) <= cond(K) cond(S) always": 0.6,
            "never worsened by more than the factor D": 0.6,
            "narrow draw, none worsened by SepPGD": 1.0,
            "narrow draw, none worsened by MSK": 0.9,
        }
    )
    assert [name for name, holds in found.items() if not holds] == ["none worsened by SepPGD"]
    assert len(spectra.violations(narrow)[0]) == 0 and len(spectra.violations(narrow)[1]) == 3


def test_instances_repeat_and_obey_the_bounds():
    frame = spectra.random_instances(6, 3)
    pd.testing.assert_frame_equal(frame, spectra.random_instances(6, 3))
    assert (spectra.compare(frame.ratio, frame.error, frame["cond S"]) == "not above").all()
    assert (spectra.compare(frame["ratio (MSK)"], frame["error (MSK)"]) == "not above").all()
    assert np.allclose(frame.ratio, frame["cond KS"] / frame["cond K"])


@pytest.mark.parametrize("family", [(), ((3.0,), 1)], ids=["wide", "narrow"])
def test_double_precision_decides_every_instance_of_the_book(family, monkeypatch):
    """Whether an instance is drawn again is a comparison too; none comes near the cut."""
    seen = []

    def recorded(model, X):
        phi = features(model, X)
        if X.shape[0] <= phi.shape[1]:
            values = torch.linalg.svdvals(phi)
            seen.append((values[0] / values[-1]).item())
        return phi

    monkeypatch.setattr(spectra, "features", recorded)
    frame = spectra.random_instances(200, 0, *family)
    for kind in ("", " (MSK)"):
        assert not (spectra.compare(frame[f"ratio{kind}"], frame[f"error{kind}"]) == "undecided").any()
    one = frame.k == 1
    assert (frame.ratio[one] == 1).all() and (frame.error[one] == 0).all() and one.any() == bool(family)
    # Nothing else is near 1: an error thirty times as large would decide the same.
    assert (spectra.compare(frame.ratio, 30 * frame.error) != "undecided").all()
    # Of the smooth networks near the cut the features are known to 200 u at worst.
    assert np.abs(np.log(np.array(seen) * spectra.SINGULAR)).min() > 200 * spectra.UNIT_ROUNDOFF / spectra.SINGULAR
