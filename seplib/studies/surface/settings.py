"""What the surface notebook can be told (Sec. A.12, Fig. 3)."""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class SurfaceSettings:
    """Surface representation with a CP network of three factors on a full grid (Sec. A.12, Fig. 3).

    Attributes:
        sizes: of the grid, voxels along each axis.
        rank, width, depth: R, W and the number of linear layers L.
        omega: frequency w_0 of SIREN; the paper does not state it, the notebook's search picks it.
        scale: "rank" for the factor 1/sqrt(R), None for none, see :class:`seplib.CP`.
        k: modulated eigenvalues.
        update_every: iterations between preconditioner updates.
        learning_rate: of Adam, no weight decay.
        iterations: number of updates.
        every: iterations between two measurements of the IoU.
    """

    sizes: tuple[int, int, int]
    rank: int
    width: int
    depth: int
    omega: float
    scale: str | None
    k: int
    update_every: int
    learning_rate: float
    iterations: int
    every: int


@dataclass(frozen=True)
class SurfaceStudySettings:
    """The surface experiment with the search for what Sec. A.12 leaves open (Fig. 3).

    Attributes:
        surface: name for :func:`seplib.targets.solids.surface`.
        run: the run that the claim is about.
        search_sizes: of the smaller grid on which plain SepNN is searched, everything else as in ``run``.
        omegas, scales: what is tried, all pairs.
        seeds: number of seeds for each method on the smaller grid.
    """

    surface: str
    run: SurfaceSettings
    search_sizes: tuple[int, int, int]
    omegas: tuple[float, ...]
    scales: tuple[str | None, ...]
    seeds: int


_FULL = SurfaceSettings(
    sizes=(304, 512, 262),
    rank=200,
    width=256,
    depth=3,
    omega=10.0,  # this and the scale: best in the notebook's search with plain SepNN
    scale=None,
    k=20,
    update_every=10,
    learning_rate=5e-3,
    iterations=1000,
    every=20,
)

SMOKE = dict(
    surface=SurfaceStudySettings(
        surface="column",
        run=replace(_FULL, sizes=(38, 64, 34), rank=32, width=32, k=8, iterations=120, every=10),
        search_sizes=(19, 32, 17),
        omegas=(3.0, 10.0, 30.0),
        scales=("rank", None),
        seeds=2,
    )
)
PAPER = dict(
    surface=SurfaceStudySettings(
        surface="thai-statue",
        run=_FULL,
        search_sizes=(76, 128, 66),
        omegas=(3.0, 5.0, 10.0, 20.0, 30.0, 60.0),
        scales=("rank", None),
        seeds=3,
    )
)
