"""Reference solution of the nonlinear diffusion equation by the method of lines (Fig. 4, Sec. A.12).

The equation is ``u_t = (a/2) (u^2)_xx + (a/2) (u^2)_yy``: central differences of ``u^2`` on a uniform grid leave a stiff system
of ordinary differential equations, whose Jacobian is sparse and known.
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.sparse
import torch
from scipy.integrate import solve_ivp
from scipy.interpolate import RectBivariateSpline
from torch import Tensor

DIFFUSIVITY = 0.05  # a of the equation
RESOLUTION = 200  # intervals along x and along y
TOLERANCE = 1e-6  # of the integrator, relative; the error of the space grid is far above it

Start = Callable[[np.ndarray, np.ndarray], np.ndarray]


def bumps(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The three bumps that the diffusion starts from (Fig. 4).

    >>> bumps(np.array([-0.5, 0.3]), np.array([-0.1, 0.2])).round(2)
    array([0.4 , 0.25])
    """
    first = 0.25 * np.exp(-((x - 0.3) ** 2 + (y - 0.2) ** 2) / 0.1)
    second = 0.4 * np.exp(-15 * ((x + 0.5) ** 2 + (y + 0.1) ** 2))
    return first + second + 0.3 * np.exp(-20 * (x**2 + (y + 0.5) ** 2))


def diffusion_reference(t: Any, x: Any, y: Any, resolution: int = RESOLUTION) -> Any:
    """The converged numerical solution of the diffusion equation of Fig. 4, a = 0.05, zero on the boundary.

    It differs from itself at twice the resolution by less than 1e-4 wherever the boundary is a grid width or more away; in
    the last cell the start, which is up to 0.01 on the boundary, falls to zero within a layer thinner than the grid. The
    values at t = 0 are those of the start, but zero on the boundary.

    Args:
        t: ``(n_t,)`` times, 0 or later, in any order; an array or a tensor, as the next two.
        x: ``(n_x,)`` coordinates in [-1, 1].
        y: ``(n_y,)`` coordinates in [-1, 1].
        resolution: intervals along x and along y.

    Returns:
        ``(n_t, n_x, n_y)`` in float64; a tensor if t is one, else an array. Cost: about ten sparse factorisations of size
        ``resolution^2``, seconds at the default.

    Raises:
        ValueError: coordinates that are not one-dimensional, not finite or out of range; a resolution below 4.

    >>> u = diffusion_reference([0.0, 1.0], [-0.5], [-0.1], resolution=20)
    >>> u.round(2).ravel()
    array([0.4 , 0.25])
    """
    times, *places = (np.asarray(c, dtype=float) for c in (t, x, y))
    if any(c.ndim != 1 or not c.size or not np.isfinite(c).all() for c in (times, *places)):
        shapes = [c.shape for c in (times, *places)]
        raise ValueError(f"t, x and y must be finite and one-dimensional, got shapes {shapes}")
    if times.min() < 0 or max(np.abs(c).max() for c in places) > 1:
        raise ValueError("the equation holds for t >= 0 and for x and y in [-1, 1]")
    distinct, where = np.unique(times, return_inverse=True)
    nodes, states = _solved(tuple(distinct), resolution)
    values = np.empty((len(distinct), *(c.size for c in places)))
    order_x, order_y = (np.argsort(c) for c in places)
    for index, state in enumerate(states):
        spline = RectBivariateSpline(nodes, nodes, state, s=0)
        values[index][np.ix_(order_x, order_y)] = spline(places[0][order_x], places[1][order_y])
    values[:, np.abs(places[0]) == 1] = 0  # the spline's rounding
    values[:, :, np.abs(places[1]) == 1] = 0
    return torch.from_numpy(values[where]) if isinstance(t, Tensor) else values[where]


@functools.lru_cache(maxsize=4)  # training and test grid of one study
def _solved(times: tuple[float, ...], resolution: int) -> tuple[np.ndarray, np.ndarray]:
    return solve(bumps, times, resolution)


def solve(start: Start, times: tuple[float, ...], resolution: int) -> tuple[np.ndarray, np.ndarray]:
    """Method of lines for ``u_t = (a/2) lap(u^2)`` on [-1, 1]^2, zero on the boundary (Fig. 4).

    Args:
        start: ``start(x, y)``, the values at t = 0; what it is on the boundary does not matter.
        times: rising, the first 0 or later.
        resolution: intervals along each axis, 4 or more.

    Returns:
        The nodes ``(resolution + 1,)`` and the states ``(n_t, resolution + 1, resolution + 1)``.

    Raises:
        ValueError: a resolution below 4.
        RuntimeError: the integrator gave up.
    """
    if resolution < 4:
        raise ValueError(f"resolution must be at least 4, got {resolution}")
    nodes, inner = np.linspace(-1, 1, resolution + 1), resolution - 1
    ones = np.ones(inner)
    second = scipy.sparse.diags_array([ones[1:], -2 * ones, ones[1:]], offsets=[-1, 0, 1]) * (resolution / 2) ** 2
    identity = scipy.sparse.eye_array(inner)
    laplace = DIFFUSIVITY / 2 * (scipy.sparse.kron(second, identity) + scipy.sparse.kron(identity, second)).tocsr()
    result = solve_ivp(
        lambda _, u: laplace @ (u * u),
        (0, max(times[-1], TOLERANCE)),
        start(nodes[1:-1, None], nodes[None, 1:-1]).ravel(),
        method="BDF",
        t_eval=times,
        jac=lambda _, u: (laplace * (2 * u)).tocsc(),  # column j times 2 u_j
        rtol=TOLERANCE,
        atol=TOLERANCE / 100,
    )
    if not result.success:
        raise RuntimeError(f"the stiff integrator gave up: {result.message}")
    return nodes, np.pad(result.y.T.reshape(-1, inner, inner), ((0, 0), (1, 1), (1, 1)))
