"""Time of approximate() over eps and D, each certificate checked on the way: exits 1 if an error or a bound does not hold.

Seconds are reported, and beside them how many products of two 2048 x 2048 matrices the machine makes in that time.
"""

import sys
import time

from measuring import product_seconds

from seplib import approximation
from seplib.studies.approximation import gallery


def main() -> int:
    """Print a table; 0 if every certificate holds."""
    failed = 0
    print(
        f"{'function':10} D {'form':7} {'eps':>6} {'ranks':>12} {'W':>5} {'error':>8} {'bound':>8} {'seconds':>8} {'products':>8}"
    )
    for name in ("cosine", "front", "bump-3", "ridge-4", "wave-4", "sum-6"):
        function = gallery.FUNCTIONS[name]
        for form in ("CP", "TT", "Tucker"):
            for eps in (1e-1, 1e-3, 1e-5):
                began = time.perf_counter()
                _, c = approximation.approximate(function.f, function.domain, eps, form)
                seconds = time.perf_counter() - began
                holds = c.error < eps and c.bound_holds and c.closed
                failed += not holds
                ranks = ",".join(map(str, c.ranks))
                print(
                    f"{name:10} {function.dims} {form:7} {eps:6.0e} {ranks:>12} {c.width:5} {c.error:8.1e} {c.bound:8.1e} "
                    f"{seconds:8.2f} {seconds / product_seconds():8.0f}{'' if holds else '  FAILED'}"
                )
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
