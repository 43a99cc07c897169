"""What the notebook on differential equations can be told (Sec. A.12, Figs. 4, 13, 14)."""

from dataclasses import dataclass


@dataclass(frozen=True)
class EquationSettings:
    """Physics-informed networks on a grid (Sec. A.12, Figs. 4, 13, 14).

    Attributes:
        equations: names in :data:`seplib.studies.pde.fitting.EQUATIONS`.
        points: training and collocation points along each axis.
        test: test points along each axis.
        copies: number of seeds; they train in one batched pass.
        rank, width, depth: R, W and the number of linear layers L.
        iterations: number of updates.
        ks: modulated eigenvalues for data, initial and boundary loss.
        judge_every: updates between two test errors.
        resolution: of the diffusion equation's reference solution.
        omegas, learning_rates, residuals: what the search may choose from: w_0, the rate of Adam, and the weight of the residual
            loss where the other losses have weight 1. The first learning rate is the printed one.
        compared: updates of the runs that compare variants of the method.
    """

    equations: tuple[str, ...]
    points: int
    test: int
    copies: int
    rank: int
    width: int
    depth: int
    iterations: int
    ks: tuple[int, int, int]
    judge_every: int
    resolution: int
    omegas: tuple[float, ...]
    learning_rates: tuple[float, ...]
    residuals: tuple[float, ...]
    compared: int


SMOKE = dict(
    pde=EquationSettings(
        equations=("diffusion", "Klein-Gordon", "Helmholtz"),
        points=10,
        test=12,
        copies=2,
        rank=16,
        width=24,
        depth=3,
        iterations=60,
        ks=(3, 2, 2),
        judge_every=10,
        resolution=40,
        omegas=(1.0, 3.0),
        learning_rates=(5e-3,),
        residuals=(1.0, 0.01),
        compared=20,
    )
)
PAPER = dict(
    pde=EquationSettings(
        equations=("diffusion", "Klein-Gordon", "Helmholtz"),
        points=16,
        test=30,
        copies=3,
        rank=64,
        width=64,
        depth=4,
        iterations=5000,
        ks=(5, 2, 2),
        judge_every=10,
        resolution=200,
        omegas=(1.0, 3.0, 30.0),
        learning_rates=(5e-3, 1e-3),
        residuals=(1.0, 1e-2),
        compared=2000,
    )
)
