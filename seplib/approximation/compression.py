"""Cutting the ranks of a Tucker expansion and turning it into any form (Theorem 1; Eqs. (2) and (3))."""

from collections.abc import Sequence

import torch
from torch import Tensor

from seplib.approximation.expansions import FORMS, ChebyshevFactor, Interval, Model, maxima, tucker
from seplib.separable import CP, TT, Tucker
from seplib.tensorops import mode_product, unfold


def compress(g: Tucker, form: str, tolerance: float, max_rank: int | None = None) -> Model:
    """Tucker expansion in any form, its ranks cut to a tolerance (Theorem 1; Eqs. (2) and (3)).

    Tucker: the core's higher-order SVD. TT: the core's TT-SVD, each bond's singular values shared evenly between its two
    sides. CP: the SVD for D = 2; for D > 2 one term for each index of all modes but the one that is left out to make
    the fewest terms, the smallest terms dropped. Each CP term and each Tucker factor is balanced (equal maxima), since
    the error bound of Theorem 1 grows with the largest factor.

    Args:
        g: from :func:`seplib.approximation.interpolation.interpolate`.
        form: "CP", "TT" or "Tucker".
        tolerance: error of a cut, in the Euclidean norm of the Chebyshev coefficients. Tucker is cut once; the other forms
            once more after the higher-order SVD, which makes at most sqrt(2) times the tolerance.
        max_rank: cut every rank here, whatever the tolerance.

    Raises:
        ValueError: no such form.
    """
    if form not in FORMS:
        raise ValueError(f"form must be one of {', '.join(FORMS)}, got {form!r}")
    D, core = len(g.factors), g.core.detach()
    series = [f.coefficients for f in g.factors]
    rotations = []
    for d in range(D):
        U, s, _ = torch.linalg.svd(unfold(core, d)[0].mT, full_matrices=False)
        keep = _kept(s, tolerance / D**0.5, max_rank if form == "Tucker" else None)
        rotations.append(U[:, :keep])
    for d, U in enumerate(rotations):
        core = mode_product(core, U.mT.contiguous(), d)
    series = [c @ U for c, U in zip(series, rotations)]
    intervals = [f.interval for f in g.factors]
    if form == "Tucker":
        return _balanced_tucker(series, core, intervals)
    if form == "TT" or D == 2:
        cores = _tt_svd(core[0], tolerance / max(1, D - 1) ** 0.5, max_rank)
        ranks = [c.shape[-1] for c in cores[:-1]]
        series = [torch.einsum("mi,aib->mab", c, G).flatten(1) for c, G in zip(series, cores)]
        if form == "TT":
            return TT([ChebyshevFactor(c, i) for c, i in zip(series, intervals)], ranks)
    else:
        series = _cp_terms(series, core[0], tolerance, max_rank)
    return _balanced_cp(series, intervals)


def _kept(s: Tensor, tolerance: float, max_rank: int | None) -> int:
    tails = s.square().flip(0).cumsum(0).flip(0).sqrt()
    return min(max(1, int((tails > tolerance).sum())), max_rank or len(s))


def _tt_svd(core: Tensor, tolerance: float, max_rank: int | None) -> list[Tensor]:
    cores, rest, left = [], core[None], torch.ones(1, dtype=core.dtype)
    for _ in range(core.ndim - 1):
        a, i = rest.shape[:2]
        U, s, V = torch.linalg.svd(rest.flatten(2).flatten(0, 1), full_matrices=False)
        keep = _kept(s, tolerance, max_rank)
        U, s, V = U[:, :keep], s[:keep], V[:keep]
        root = s.clamp_min(torch.finfo(s.dtype).tiny).sqrt()
        # U's rows carry the singular values of the bond before: half of them goes back to that bond's other side.
        cores.append(U.unflatten(0, (a, i)) * root / left[:, None, None])
        rest, left = (s[:, None] * V).unflatten(1, rest.shape[2:]), root
    cores.append(rest[..., None] / left[:, None, None])
    return cores


def _cp_terms(series: list[Tensor], core: Tensor, tolerance: float, max_rank: int | None) -> list[Tensor]:
    free = max(range(core.ndim), key=lambda d: core.shape[d])
    fibres = core.movedim(free, 0).flatten(1)
    sizes, order = fibres.norm(dim=0).sort(descending=True)
    order = order[: _kept(sizes, tolerance, max_rank)]
    others = [n for d, n in enumerate(core.shape) if d != free]
    indices = iter(torch.unravel_index(order, others))
    return [c @ fibres[:, order] if d == free else c[:, next(indices)] for d, c in enumerate(series)]


def _balanced_cp(series: list[Tensor], intervals: Sequence[Interval]) -> CP:
    sizes = torch.stack([maxima(c) for c in series])
    level = sizes.prod(0) ** (1 / len(series))
    series = [c * torch.where(m > 0, level / m, 1.0) for c, m in zip(series, sizes)]
    return CP([ChebyshevFactor(c, i) for c, i in zip(series, intervals)], scale=None)


def _balanced_tucker(series: list[Tensor], core: Tensor, intervals: Sequence[Interval]) -> Tucker:
    """Largest factor 1, each in proportion to the D-th root of its slice's largest entry, no core entry increased; a core of zeros stays."""
    for d, c in enumerate(series):
        largest = maxima(c)
        series[d] = c / largest
        core = mode_product(core, torch.diag(largest), d)
    slices = [unfold(core, d)[0].abs().amax(0) for d in range(len(series))]
    for d, largest in enumerate(slices):
        share = (largest / largest.max()).nan_to_num(1.0).clamp_min(torch.finfo(core.dtype).eps) ** (1 / len(series))
        series[d] = series[d] * share
        core = mode_product(core, torch.diag(1 / share), d)
    return tucker([ChebyshevFactor(c, i) for c, i in zip(series, intervals)], core)
