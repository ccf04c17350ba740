"""If these fail, a value that a block boundary divides is misread, or a line number is wrong."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from training.errors import DataError
from training.run import text_lines
from training.run.json_lines import Line
from training.text.examples import read_examples
from training.text.formats.json_file import json_rows

TEXTS = st.text(st.sampled_from('aé😀"\\\n\t{}[],: 0\u2028'), max_size=12)
NUMBERS = st.one_of(st.integers(), st.floats(allow_nan=False, allow_infinity=False))
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3))
RECORDS = st.lists(st.dictionaries(TEXTS, VALUES, max_size=4), min_size=1, max_size=5)
SIZES = [*range(1, 10), 16, 31, 64, 1 << 16]
"""Bytes of a block, from less than a character to more than the file."""
EACH = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def read(path: Path, size: int) -> tuple[list[tuple[int, Any]], str]:
    """Return the rows of a file that is read in blocks of a size, each with its line, and the error that ends it."""
    found: list[tuple[int, Any]] = []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(text_lines, "BLOCK", size)
        try:
            for row in json_rows(path):
                found.append((row.number, row.record) if isinstance(row, Line) else (0, str(row)))
        except DataError as error:
            return found, str(error)
    return found, ""


@EACH
@given(RECORDS, st.booleans(), st.sampled_from([None, 1]))
def test_a_list_in_blocks_is_what_json_reads(
    tmp_path: Path, records: list[dict[str, Any]], ascii_only: bool, indent: int | None
) -> None:
    text = json.dumps(records, ensure_ascii=ascii_only, indent=indent)
    (tmp_path / "a.json").write_text(text, encoding="utf8")
    starts = [text.index("{")]
    while len(starts) < len(records):
        starts.append(text.index("{", json.JSONDecoder().raw_decode(text, starts[-1])[1]))
    numbers = [text.count("\n", 0, start) + 1 for start in starts]
    expected = list(zip(numbers, json.loads(text), strict=True))
    for size in SIZES:
        assert read(tmp_path / "a.json", size) == (expected, "")


def test_a_number_that_a_block_divides_costs_no_row_after_it(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('[1.5, -0.25e-7, 2E+5, {"text": "a"}]')
    for size in SIZES:
        rows, error = read(tmp_path / "a.json", size)
        assert not error and len(rows) == 4 and rows[-1] == (1, {"text": "a"})
        assert all(
            f"the number {number}" in told for number, (_, told) in zip((1.5, -0.25e-7, 2e5), rows, strict=False)
        )


@EACH
@given(RECORDS, st.sampled_from([None, 1]), st.data())
def test_a_broken_list_is_broken_alike_wherever_its_blocks_end(
    tmp_path: Path, records: list[dict[str, Any]], indent: int | None, data: st.DataObject
) -> None:
    """One byte is missing, is another one, or is no UTF-8."""
    contents = json.dumps(records, ensure_ascii=False, indent=indent).encode()
    place = data.draw(st.integers(1, len(contents) - 1))
    contents = contents[:place] + data.draw(st.sampled_from([b"", b",", b'"', b"}", b"\xff"])) + contents[place + 1 :]
    (tmp_path / "a.json").write_bytes(contents)
    whole = read(tmp_path / "a.json", SIZES[-1])
    for size in SIZES[:-1]:
        assert read(tmp_path / "a.json", size) == whole


@pytest.mark.parametrize("text", ['[{"text": "a", "label": "b"}]', '{\n  "text": "a"\n}', "[\n{}]"])
def test_one_value_named_as_lines_is_told_apart_from_a_broken_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(text)
    with pytest.raises(DataError, match=r"a\.jsonl:1: .*, if the file is one list, let its name end in \.json"):
        read_examples(path, "classify")
    path.write_text('{"text": "a", "label": "b"}\n{"text"')
    with pytest.raises(DataError, match=r"a\.jsonl:2: not JSON .*; correct the line$"):
        read_examples(path, "classify")
