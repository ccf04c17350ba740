"""Numbers of bytes, written for people."""


def in_units(count: float) -> str:
    """Return a number of bytes in the unit that leaves a figure before the point: 12 kB, 3.4 MB, 1.2 GB."""
    for size, unit in ((1e9, "GB"), (1e6, "MB")):
        if abs(count) >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count / 1e3:,.0f} kB"
