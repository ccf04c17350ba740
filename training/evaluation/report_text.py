"""Tables of plain text that fit a terminal of 80 columns."""

from collections.abc import Sequence

from rich.cells import cell_len, set_cell_size

WIDTH = 80
GAP = "  "
NUMBERS = ("pearson", "spearman", "mean_absolute_error")
"""Figures that are not shares."""


def percent(share: float) -> str:
    """Return a share in percent, with one digit."""
    return f"{100 * share:.1f}"


def figure_text(name: str, value: float) -> str:
    """Return a figure with its unit: shares in percent, correlations and errors as they are."""
    return f"{value:.3f}" if name in NUMBERS else f"{percent(value)} %"


def cut(text: str, width: int) -> str:
    """Cut a text to `width` cells of a terminal (some characters take two) and mark the cut."""
    return text if cell_len(text) <= width else set_cell_size(text, width - 1).rstrip() + "…"


def columns(header: Sequence[str], rows: Sequence[Sequence[str]], texts: int = 1) -> list[str]:
    """Return a table; the first `texts` columns are texts, which are cut to fit, and the others are figures."""
    cells = [list(header), *map(list, rows)]
    widths = [max(cell_len(row[place]) for row in cells) for place in range(len(header))]
    room = WIDTH - sum(widths[texts:]) - len(GAP) * (len(header) - 1)
    widths[:texts] = _shared(widths[:texts], room)
    return [GAP.join(_cell(row[place], width, place < texts) for place, width in enumerate(widths)) for row in cells]


def _shared(widths: Sequence[int], room: int) -> list[int]:
    """Return the widths of texts in a `room`: an even share, plus the unused space of narrower ones."""
    left, shared = room, list(widths)
    for number, place in enumerate(sorted(range(len(widths)), key=lambda place: widths[place])):
        shared[place] = min(widths[place], left // (len(widths) - number))
        left -= shared[place]
    return shared


def _cell(text: str, width: int, is_text: bool) -> str:
    shown = cut(text, width)
    padding = " " * (width - cell_len(shown))
    return shown + padding if is_text else padding + shown
