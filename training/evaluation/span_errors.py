"""The kinds of errors of spans: in type, in boundaries, missed, or invented.

The kinds are those of MUC (Chinchor and Sundheim, 1993) and SemEval 2013, task 9.1, as in nervaluate.
"""

from collections.abc import Iterator
from typing import NamedTuple

from training.evaluation.metrics import Span

RIGHT, TYPE, BOUNDARIES, BOTH = "right", "wrong type", "wrong boundaries", "wrong type and boundaries"
MISSED, SPURIOUS = "missed", "spurious"
KINDS = (RIGHT, TYPE, BOUNDARIES, BOTH, MISSED, SPURIOUS)


class Match(NamedTuple):
    """A span of the data and the found one; None for a span without a counterpart."""

    wanted: Span | None
    found: Span | None

    @property
    def kind(self) -> str:
        """Name the error."""
        if self.wanted is None or self.found is None:
            return SPURIOUS if self.wanted is None else MISSED
        same_type, same_ends = self.wanted[0] == self.found[0], self.wanted[1:] == self.found[1:]
        if same_type:
            return RIGHT if same_ends else BOUNDARIES
        return TYPE if same_ends else BOTH


def matches(wanted: set[Span], found: set[Span]) -> Iterator[Match]:
    """Match each span with at most one overlapping span of the other side, the most similar first."""
    left, rest = set(wanted), set(found)
    pairs = [(one, other) for one in wanted for other in found if overlap(one, other)]
    for one, other in sorted(pairs, key=_order):
        if one in left and other in rest:
            left.remove(one)
            rest.remove(other)
            yield Match(one, other)
    yield from (Match(one, None) for one in sorted(left, key=_place))
    yield from (Match(None, other) for other in sorted(rest, key=_place))


def overlap(one: Span, other: Span) -> int:
    """Return how many characters (or words) two spans share."""
    return max(0, min(one[2], other[2]) - max(one[1], other[1]))


def _order(pair: tuple[Span, Span]) -> tuple[int, int, Span, Span]:
    kinds = [RIGHT, TYPE, BOUNDARIES, BOTH]
    return kinds.index(Match(*pair).kind), -overlap(*pair), *pair


def _place(span: Span) -> tuple[int, int, str]:
    return span[1], span[2], span[0]
