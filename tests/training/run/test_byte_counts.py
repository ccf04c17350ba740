"""If these fail, a message on a full disk compares "0.0 GB" with "0.0 GB"."""

import pytest

from training.run.byte_counts import in_units


@pytest.mark.parametrize(
    ("count", "expected"),
    [(0, "0 kB"), (12_345, "12 kB"), (999_999, "1,000 kB"), (3_400_000, "3.4 MB"), (1.25e12, "1,250.0 GB")],
)
def test_a_figure_stands_before_the_point(count: float, expected: str) -> None:
    assert in_units(count) == expected
