"""If these fail, a line that is too long is cut silently, damages its neighbors, or shifts line numbers."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from training.errors import RowError
from training.run import text_lines

LIMIT = 16
LINES = st.lists(st.integers(0, 3 * LIMIT + 2), min_size=1, max_size=6)
"""By their bytes, without line breaks."""


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(LINES, st.sampled_from(["utf8", "utf-8-sig", "utf-16"]), st.booleans())
@example([LIMIT - 1, LIMIT, LIMIT + 1], "utf-8-sig", True)
@example([LIMIT // 2 - 1, LIMIT // 2, 3 * LIMIT, 1], "utf-16", False)
def test_a_line_beyond_the_limit_is_an_error_in_its_place(
    tmp_path: Path, lengths: list[int], encoding: str, ends: bool
) -> None:
    """With a byte order mark or without, and whether or not the last line ends in a line break."""
    lines = [chr(ord("a") + place) * length for place, length in enumerate(lengths)]
    text = "\n".join(lines) + "\n" * ends
    (tmp_path / "a.txt").write_bytes(text.encode(encoding))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(text_lines, "MAX_LINE", LIMIT)
        found = list(text_lines.text_lines(tmp_path / "a.txt"))
    expected = text.splitlines(keepends=True)
    assert len(found) == len(expected)
    for number, (line, one) in enumerate(zip(expected, found, strict=True), start=1):
        if len(line.rstrip("\n")) * (2 if encoding == "utf-16" else 1) < LIMIT:
            assert one == line
        else:
            assert isinstance(one, RowError) and one.number == number and f"a.txt:{number}: a line of" in str(one)
