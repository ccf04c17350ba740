"""Converts questions of SQuAD and similar data to one form: "answers" is {"text": […], "answer_start": […]}.

It also reads a list of objects (SQuAD 1.1 and 2.0 as published), one answer in its own columns, `is_impossible`, and
questions without an id; their id is then their place in the file.
"""

from dataclasses import replace
from typing import Any

from training.run.json_lines import Line

FLAT = ("answer", "answer_text")
"""Columns of a single answer, besides "answer_start"."""


def with_answers(line: Line) -> Line:
    """Return a record with answers and id in one form; raise DataError for answers to an impossible question."""
    answers = _answers(line)
    if answers is None:
        return line
    impossible = line.record.get("is_impossible")
    if impossible is True and answers["text"]:
        line.fail(f'"is_impossible" is true, but there are answers ({answers["text"]!s:.60}); correct one of them')
    if impossible is False and not answers["text"]:
        line.fail('"is_impossible" is false, but there are no answers; add one, or correct it')
    number = line.record.get("id")
    place = line.place.removeprefix(f"{line.path.parent}/")
    return replace(line, record=line.record | {"answers": answers, "id": place if number is None else str(number)})


def _answers(line: Line) -> dict[str, list[Any]] | None:
    """Return the answers in one form; None for an unknown form, which the reader refuses."""
    record = line.record
    given = record.get("answers")
    if given is None and record.get("is_impossible") is True:
        return {"text": [], "answer_start": []}
    if given is None and (key := next((key for key in FLAT if key in record), None)) and "answer_start" in record:
        given = {"text": record[key], "answer_start": record["answer_start"]} if record[key] else []
    if isinstance(given, list) and all(isinstance(one, dict) for one in given):
        return {key: [Line(line.path, line.number, one, line.part).value(key) for one in given] for key in KEYS}
    if isinstance(given, dict) and given.keys() >= set(KEYS):
        return {key: given[key] if isinstance(given[key], list) else [given[key]] for key in KEYS}
    return None


KEYS = ("text", "answer_start")
