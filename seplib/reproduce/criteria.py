"""Criteria: a number against its threshold that knows how near it came, and the verdict from all of a claim's cases."""

import math
import operator
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, SupportsFloat

DECIBELS = 10 / math.log(10)  # so many dB are a factor e: the scale that turns a difference in dB into a relative one
_RELATIONS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}


@dataclass(frozen=True)
class Comparison:
    """A number against its threshold: true or false like a bool, and it knows how near it came.

    Attributes:
        value: what was measured; infinite where a goal was never reached.
        relation: ``"<"``, ``"<="``, ``">"`` or ``">="``, what the criterion asks of value and bound.
        bound: the threshold.
        scale: what a distance is counted in, in the value's unit.
        spread: standard deviation of the value over seeds, in the value's unit; None if there is one seed.
        timed: whether the value counts in the seconds of one machine, so that a machine with other speeds may turn the case.

    Raises:
        ValueError: a value or a bound that is NaN, a scale that is not positive.
    """

    value: float
    relation: str
    bound: float
    scale: float
    spread: float | None = None
    timed: bool = False

    def __post_init__(self) -> None:
        if math.isnan(self.value) or math.isnan(self.bound):
            raise ValueError(f"a comparison needs two numbers, got {self!r}")
        if not self.scale > 0:
            raise ValueError(f"a distance needs a positive scale, got {self!r}")

    def __bool__(self) -> bool:
        return bool(_RELATIONS[self.relation](self.value, self.bound))

    def __str__(self) -> str:
        return str(bool(self))

    @property
    def distance(self) -> float:
        """How far the value lies on the right side of the bound, in units of the scale; negative on the wrong side."""
        right = self.bound - self.value if self.relation[0] == "<" else self.value - self.bound
        return right / self.scale

    @property
    def within_spread(self) -> bool:
        """Whether the value is nearer to the bound than its own standard deviation over seeds."""
        return self.spread is not None and abs(self.value - self.bound) < self.spread

    def margin(self) -> dict[str, float | str | None]:
        """The comparison as plain JSON; infinite numbers become None."""
        numbers = {"value": self.value, "bound": self.bound, "distance": self.distance, "spread": self.spread}
        found = {name: _finite(number) for name, number in numbers.items()}
        found |= {"relation": self.relation, "timed": self.timed}
        notes = {"within one spread of its threshold": self.within_spread, "in seconds of one machine": self.timed}
        text = ", ".join(note for note, applies in notes.items() if applies)
        return found | ({"note": text} if text else {})


Case = bool | Comparison


def _compare(
    value: SupportsFloat, relation: str, bound: SupportsFloat, scale: SupportsFloat | None, spread: SupportsFloat | None
) -> Comparison:
    value, bound = float(value), float(bound)
    if scale is None and bound == 0:
        raise ValueError(f"{value:g} {relation} 0: a distance to 0 is not relative to it, give a scale")
    spread = None if spread is None or math.isnan(spread) else float(spread)
    return Comparison(value, relation, bound, abs(bound) if scale is None else float(scale), spread)


def at_most(
    value: SupportsFloat, bound: SupportsFloat, scale: SupportsFloat | None = None, spread: SupportsFloat | None = None
) -> Comparison:
    """``value <= bound`` as a case of a criterion.

    Args:
        value: what was measured.
        bound: the threshold.
        scale: what the distance is counted in, the bound's size if None. Needed for the bound 0; :data:`DECIBELS` for dB,
            1 for exponents.
        spread: standard deviation of the value over seeds; None or NaN if there is one seed.

    >>> case = at_most(0.3, 0.4)
    >>> bool(case), round(case.distance, 2)
    (True, 0.25)
    """
    return _compare(value, "<=", bound, scale, spread)


def at_least(
    value: SupportsFloat, bound: SupportsFloat, scale: SupportsFloat | None = None, spread: SupportsFloat | None = None
) -> Comparison:
    """``value >= bound`` as a case of a criterion, see :func:`at_most`."""
    return _compare(value, ">=", bound, scale, spread)


def below(
    value: SupportsFloat, bound: SupportsFloat, scale: SupportsFloat | None = None, spread: SupportsFloat | None = None
) -> Comparison:
    """``value < bound`` as a case of a criterion, see :func:`at_most`."""
    return _compare(value, "<", bound, scale, spread)


def above(
    value: SupportsFloat, bound: SupportsFloat, scale: SupportsFloat | None = None, spread: SupportsFloat | None = None
) -> Comparison:
    """``value > bound`` as a case of a criterion, see :func:`at_most`."""
    return _compare(value, ">", bound, scale, spread)


def between(
    value: SupportsFloat,
    low: SupportsFloat,
    high: SupportsFloat,
    scale: SupportsFloat | None = None,
    spread: SupportsFloat | None = None,
) -> Comparison:
    """``low <= value <= high`` as a case of a criterion, held against the nearer end, see :func:`at_most`.

    >>> between(-0.6, -0.65, -0.35, scale=1).bound
    -0.65
    """
    return all_of(at_least(value, low, scale, spread), at_most(value, high, scale, spread))


def all_of(*comparisons: Comparison) -> Comparison:
    """The comparison on which it hangs whether all hold: the one with the smallest distance.

    Raises:
        ValueError: nothing to compare.

    >>> all_of(at_most(0.9, 1), at_most(3, 1), at_most(0.5, 1)).value
    3.0
    """
    if not comparisons:
        raise ValueError("all_of needs at least one comparison")
    return min(comparisons, key=lambda case: (case.distance, bool(case)))


def timed(comparison: Comparison) -> Comparison:
    """A comparison that says of itself that it counts in the seconds of one machine."""
    return replace(comparison, timed=True)


def nearest(entry: Mapping[str, Any]) -> tuple[str, dict[str, Any]] | None:
    """The case of a recorded claim that is nearest to its threshold, with its margin.

    Returns:
        Name and margin; None where the entry has no margins, as those of an older version, or no finite one.
    """
    known = {name: margin for name, margin in (entry.get("margins") or {}).items() if margin["distance"] is not None}
    return min(known.items(), key=lambda item: abs(item[1]["distance"])) if known else None


def held(cases: Mapping[str, Case]) -> dict[str, bool]:
    """Which of some cases hold, as plain bools.

    >>> held({"at most 0.8": at_most(0.9, 0.8), "measured": True})
    {'at most 0.8': False, 'measured': True}
    """
    return {name: bool(holds) for name, holds in cases.items()}


def margins(cases: Mapping[str, Case]) -> dict[str, dict[str, Any]]:
    """Margins of the cases that are comparisons, by name, as a record keeps them."""
    return {name: case.margin() for name, case in cases.items() if isinstance(case, Comparison)}


def _finite(number: float | None) -> float | None:
    return number if number is not None and math.isfinite(number) else None


def verdict(cases: Mapping[str, Case]) -> str:
    """Verdict from the cases of a claim's criterion: all hold, some hold, none holds.

    >>> verdict({"Plane": True, "Baboon": False})
    'partly'
    """
    if not cases:
        raise ValueError("a verdict needs at least one case")
    count = sum(map(bool, cases.values()))
    return "reproduced" if count == len(cases) else "partly" if count else "not reproduced"
