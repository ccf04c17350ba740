"""A representative sample: seeded, and from every part in proportion to its size."""

from collections.abc import Hashable, Sequence

import numpy as np

SEED = 0


def stratified(strata: Sequence[Hashable], count: int, seed: int = SEED) -> list[int]:
    """Return the indices of `count` items (of all, if there are fewer), in order.

    `strata` names the part of each item. A part gets its share rounded down; the parts with the largest remainders get
    one more.
    """
    if count >= len(strata):
        return list(range(len(strata)))
    parts: dict[Hashable, list[int]] = {}
    for place, stratum in enumerate(strata):
        parts.setdefault(stratum, []).append(place)
    generator = np.random.default_rng(seed)
    counts = _shares([len(members) for members in parts.values()], count)
    sizes = zip(parts.values(), counts, strict=True)
    return sorted(int(place) for members, size in sizes for place in generator.choice(members, size, replace=False))


def _shares(sizes: Sequence[int], count: int) -> list[int]:
    """Divide `count` in proportion to `sizes` (largest remainders); if these are equal, the first part gets more."""
    total = sum(sizes)
    shares = [size * count // total for size in sizes]
    remainders = [size * count % total for size in sizes]
    for place in sorted(range(len(sizes)), key=lambda place: -remainders[place])[: count - sum(shares)]:
        shares[place] += 1
    return shares
