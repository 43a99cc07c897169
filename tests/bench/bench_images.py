"""Speed of the image experiment (Secs. 4 and A.12): python tests/bench/bench_images.py.

Ratios within one run with their bounds, then where the time of a step goes. Exit status 1 if a stated bound does not hold. On a
shared machine the ratios, not the seconds, mean something.
"""

import statistics
import sys

import torch
from measuring import Row, best, judge, peak_tensor_memory, product_seconds

from seplib import CP, FactorMLP, SepPGD, fit, ntk, tensorops
from seplib.preconditioning import kronecker_sum
from seplib.reproduce import profiles

SETTINGS = profiles.get("paper").image_representation
N, R, W, L = SETTINGS.size, SETTINGS.rank, SETTINGS.width, SETTINGS.depth


def jacobian_product(factor: FactorMLP, x: torch.Tensor) -> torch.Tensor:
    """The pseudo-NTK as the product of the full n x P Jacobian, by torch.func."""
    parameters = {name: p.detach() for name, p in factor.named_parameters()}

    def logits(values, point):
        return torch.func.functional_call(factor, values, (point[None],)).sum()

    rows = torch.func.vmap(torch.func.grad(logits), (None, 0))(parameters, x)
    jacobian = torch.cat([row.flatten(1) for row in rows.values()], 1)
    return jacobian @ jacobian.T


def pseudo_ntk() -> list[Row]:
    factor, x = FactorMLP(R, width=W, depth=L), torch.linspace(-1, 1, N)
    fast = best(lambda: ntk.pseudo(factor, x), 7)
    slow = best(lambda: jacobian_product(factor, x), 1)
    gap = (ntk.pseudo(factor, x)[0] - jacobian_product(factor, x)).norm() / ntk.pseudo(factor, x).norm()
    return [
        ("pseudo-NTK, layer by layer / Jacobian product", fast / slow, 0.05),
        ("pseudo-NTK, tensors in MB", peak_tensor_memory(lambda: ntk.pseudo(factor, x)) / 1e6, 100),
        ("pseudo-NTK, relative difference of the two", gap.item(), 1e-4),
    ]


def model(ensemble: int) -> tuple[CP, list[torch.Tensor]]:
    return CP([FactorMLP(R, width=W, depth=L, ensemble=ensemble) for _ in range(2)]), [torch.linspace(-1, 1, N)] * 2


def adam(network: torch.nn.Module) -> torch.optim.Adam:
    return torch.optim.Adam(network.parameters(), lr=SETTINGS.learning_rate, fused=True)


def iteration(preconditioned: bool, ensemble: int, iterations: int) -> float:
    """Seconds of one iteration, preconditioner updates included, from the training loop's own record."""
    network, axes = model(ensemble)
    method = SepPGD(network, axes, SETTINGS.k, SETTINGS.update_every) if preconditioned else None
    target = torch.rand(ensemble, N, N, generator=torch.Generator().manual_seed(0))
    history = fit(network, axes, target, adam(network), method, iterations=iterations)
    # The first round of the update period warms up.
    return (history.seconds[-2] - history.seconds[9]) / (iterations - 10)


def steps() -> list[Row]:
    plain, ours, single = [], [], []
    for _ in range(3):  # in turn, so that a noisy minute falls on all of them
        plain.append(iteration(False, 3, 30))
        ours.append(iteration(True, 3, 30))
        single.append(iteration(False, 1, 30))
    run = statistics.median(ours) * SETTINGS.iterations
    return [
        (
            "SepPGD iteration / SepNN iteration, 512 x 512 x 3",
            statistics.median(b / a for a, b in zip(plain, ours)),
            1.8,
        ),
        (
            "three channels in one pass / three separate runs",
            statistics.median(a / (3 * c) for a, c in zip(plain, single)),
            1.3,
        ),
        ("SepPGD iteration / product of two 2048 x 2048 matrices", min(ours) / product_seconds(), None),
        (f"SepPGD, {SETTINGS.iterations} iterations, minutes", run / 60, None),
    ]


def parts() -> list[tuple[str, float, float | None, bool]]:
    """What a step does: name, least seconds of several turns, operations where they are known, whether SepNN does it too."""
    (network, axes), k, period = model(3), SETTINGS.k, SETTINGS.update_every
    method, optimizer = SepPGD(network, axes, k, period), adam(network)
    method.update()
    outputs = [f(x) for f, x in zip(network.factors, axes)]
    factors = [output.detach() for output in outputs]
    residual = tensorops.cp_product(factors) - torch.rand(3, N, N)
    points, layers = residual.numel(), 3 * 2 * 2 * N * ((L - 2) * W * W + W * R)

    def forward() -> None:
        for f, x in zip(network.factors, axes):
            f(x)

    def backward() -> None:
        torch.autograd.backward(outputs, factors, retain_graph=True)  # any cotangents cost the same

    work = [
        ("factors, forward", forward, layers, True),
        ("product on the grid", lambda: tensorops.cp_product(factors), 2 * points * R, True),
        ("residual and loss", lambda: (residual - residual).square().sum().item(), None, True),
        ("MTTKRP, both factors", lambda: tensorops.mttkrp(residual, factors), 4 * points * R, True),
        ("factors, backward", backward, 2 * layers, True),
        ("Adam", optimizer.step, None, True),
        ("preconditioner, applied", lambda: kronecker_sum(residual, method.preconditioners), 8 * k * points, False),
        (f"preconditioner, renewed / {period}", method.update, None, False),
    ]
    times = [[best(function, 1) for _, function, _, _ in work] for _ in range(7)]  # in turn
    least = [min(column) for column in zip(*times)]
    least[-1] /= period
    return [(name, took, operations, both) for (name, _, operations, both), took in zip(work, least)]


def breakdown() -> None:
    """Print where the time goes, and what share of the matrix product's peak a step reaches."""
    top, rows = 2 * 2048**3 / product_seconds(), parts()
    whole, plain = sum(row[1] for row in rows), sum(row[1] for row in rows if row[3])
    print(f"\nWhere the time of a step goes, 512 x 512 x 3; the machine's matrix product makes {top / 1e9:.0f} GFLOP/s")
    print(f"{'part':34s} {'ms':>8s} {'of SepNN':>9s} {'of SepPGD':>10s} {'of peak':>8s}")
    for name, took, operations, both in rows:
        share = f"{took / plain:9.0%}" if both else f"{'':9s}"
        speed = f"{operations / took / top:8.0%}" if operations else ""
        print(f"{name:34s} {1e3 * took:8.1f} {share} {took / whole:10.0%} {speed}")
    for name, total, chosen in (("SepNN", plain, [row for row in rows if row[3]]), ("SepPGD", whole, rows)):
        work = sum(operations or 0 for _, _, operations, _ in chosen)
        print(f"{name + ', sum of the parts':34s} {1e3 * total:8.1f} {'':20s} {work / total / top:8.0%}")
        took = iteration(name == "SepPGD", 3, 30)
        print(f"{name + ', iteration as a whole':34s} {1e3 * took:8.1f} {'':20s} {work / took / top:8.0%}")


def main() -> int:
    """Print the tables; 1 if a bound fails."""
    print(f"n = {N}, R = {R}, W = {W}, depth {L}, {torch.get_num_threads()} threads")
    held = judge([*pseudo_ntk(), *steps()])
    breakdown()
    return int(not held)


if __name__ == "__main__":
    sys.exit(main())
