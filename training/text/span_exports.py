"""Converts the character spans of annotation tools to one form: {"text", "spans": [[start, end, type]]}.

doccano       {"text", "label": [[start, end, type]]}, {"text", "entities": [{"start_offset", "end_offset", "label"}]}
spaCy         {"text", "entities": [[start, end, type]]}
Prodigy       {"text", "spans": [{"start", "end", "label"}]}, {"text", "accept": [class]}; "answer" says what counts
Label Studio  {"data": {"text"}, "annotations": [{"result": [{"value": {"start", "end", "labels": [type]}}]}]}, and
              JSON-MIN, {"text", "label": [{"start", "end", "labels": [type]}]}
"""

import re
from dataclasses import replace
from typing import Any, NamedTuple

from models.scripts import UNSPACED
from training.run.json_lines import Line
from training.text.notes import Notes

SPANS = ("spans", "entities", "label", "labels")
"""Keys that may have spans; the first one found counts."""
TASK_KEYS = {"id", "data", "meta", "annotations", "predictions"}
"""Keys of a task of Label Studio."""
OF_PRODIGY = {"_input_hash", "_task_hash", "spans", "accept", "label"}
"""Keys that show, beside "answer", that a record is from Prodigy."""
STARTS, ENDS = ("start", "start_offset"), ("end", "end_offset")
TYPES = ("label", "labels", "type", "entity_group")
WORD = re.compile(r"[^\W_]")
TRIMMED = "spans whose spaces at the ends were removed"
WIDENED = "spans that cut a word, and were extended to the whole word"
UTF16 = "spans converted from UTF-16 units, which JavaScript counts, to characters"
UNLABELED = "tasks left out, because they have no annotation"
REFUSED = 'rows left out, because their "answer" is reject or ignore'
SEVERAL = "tasks with several annotations; the ground truth was used, or the first one"


# ---- Label Studio ----------------------------------------------------------------------------------------------------


def unwrap(line: Line, notes: Notes, labeled: bool = True) -> Line | None:
    """Return a task of Label Studio as a flat record, a choice of Prodigy with its label, other records as they are.

    Return None for a task without annotation, or one that was rejected, unless labels are not needed.
    """
    data, annotations = line.record.get("data"), line.record.get("annotations", line.record.get("completions"))
    if not labeled and isinstance(data, dict) and (isinstance(annotations, list) or line.record.keys() <= TASK_KEYS):
        number = {key: line.record[key] for key in ("id",) if key in line.record}
        return replace(line, record=number | data)
    if not isinstance(data, dict) or not isinstance(annotations, list):
        return _accepted(line, notes) if labeled else line
    done = [one for one in annotations if isinstance(one, dict) and not one.get("was_cancelled")]
    if not done:
        notes[UNLABELED] += 1
        return None
    if len(done) > 1:
        notes[SEVERAL] += 1
    chosen = next((one for one in done if one.get("ground_truth")), done[0])
    results = [one.get("value") for one in chosen.get("result") or [] if isinstance(one, dict)]
    return replace(line, record=data | _answers([value for value in results if isinstance(value, dict)]))


def _accepted(line: Line, notes: Notes) -> Line | None:
    """Return a record of Prodigy with the chosen classes as its label; None if it was rejected or ignored."""
    record = line.record
    if record.get("answer") in ("reject", "ignore") and record.keys() & OF_PRODIGY:
        notes[REFUSED] += 1
        return None
    chosen = record.get("accept")
    if "label" in record or "options" not in record or not isinstance(chosen, list):
        return line
    return replace(line, record=record | {"label": chosen[0] if len(chosen) == 1 else chosen})


def _answers(values: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the content of an annotation: spans, or the chosen class or classes."""
    choices = [value["choices"] for value in values if isinstance(value.get("choices"), list)]
    label = choices[0] if choices else []
    spans = [value for value in values if "start" in value]
    return {"label": label[0] if len(label) == 1 else label} if choices else {"spans": spans}


# ---- spans -----------------------------------------------------------------------------------------------------------


class Span(NamedTuple):
    start: int
    end: int
    type: str


def with_spans(line: Line, notes: Notes) -> Line:
    """Return a record whose spans are [[start, end, type]]; a record of words and tags stays as it is.

    Blanks at the ends of a span are removed, and a cut word is included whole: a tagger labels whole words.
    """
    record = line.record
    if "tags" in record or not isinstance(record.get("text"), str):
        return line
    key = next((key for key in SPANS if isinstance(record.get(key), list)), None)
    if key is None:
        return line
    text: str = record["text"]
    spans = [_fitted(text, _span(line, key, index, span, notes), notes) for index, span in enumerate(record[key])]
    rest = {name: value for name, value in record.items() if name not in ("tokens", *SPANS)}
    return replace(line, record=rest | {"spans": spans})


def _span(line: Line, key: str, index: int, given: Any, notes: Notes) -> Any:
    """Return a span as [start, end, type]; anything else is returned as it is, and the reader refuses it."""
    if not isinstance(given, dict):
        return given
    text = line.record["text"]
    start, end, name = (next((given[key] for key in keys if key in given), None) for keys in (STARTS, ENDS, TYPES))
    if isinstance(name, list) and len(name) == 1:
        name = name[0]
    if not (type(start) is type(end) is int and isinstance(name, str)):
        return given
    written = given.get("text")
    if not isinstance(written, str) or text[start:end] == written:
        return [start, end, name]
    first, stop = _characters(text, start), _characters(text, end)
    if text[first:stop] == written:
        notes[UTF16] += 1
        return [first, stop, name]
    if text[start:end].strip() != written.strip():
        found = text[start:end][:40]
        line.fail(f'"{key}"[{index}] is {found!r} by its offsets, expected its text {written[:40]!r}; correct one')
    return [start, end, name]


def _characters(text: str, units: int) -> int:
    """Return the index of the character after this many UTF-16 units."""
    return len(text.encode("utf-16-le", "surrogatepass")[: 2 * max(0, units)].decode("utf-16-le", "replace"))


def _fitted(text: str, span: Any, notes: Notes) -> Any:
    """Return a span of whole words without blanks at its ends; an invalid span is returned unchanged."""
    if not isinstance(span, list) or [type(part) for part in span] != [int, int, str]:
        return span
    start, end, name = span
    if not (0 <= start < end <= len(text) and text[start:end].strip()):
        return span
    inner = text[start:end]
    first, stop = start + len(inner) - len(inner.lstrip()), end - len(inner) + len(inner.rstrip())
    notes[TRIMMED] += (first, stop) != (start, end)
    start, end = first, stop
    while _inside_word(text, start):
        start -= 1
    while _inside_word(text, end):
        end += 1
    notes[WIDENED] += (first, stop) != (start, end)
    return [start, end, name]


def _inside_word(text: str, place: int) -> bool:
    """Tell whether the characters before and after an index belong to one word, in a script with blanks."""
    beside = text[place - 1 : place + 1] if 0 < place < len(text) else ""
    return len(beside) == 2 and all(map(WORD.match, beside)) and not UNSPACED.search(beside)
