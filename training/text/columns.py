"""Finds the column of a file for each field of an example.

`chosen` names them (`--columns text=sentence,label=intent`); otherwise usual names are recognized, if a file has only
one of them. In a file without names, columns are numbers, counted from 0.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import NoReturn

from training.errors import ColumnError
from training.run.json_lines import Line
from training.run.progress import tell

TEXT = ("text", "sentence", "utterance", "content", "body")
LABEL = ("label", "intent", "category", "class", "target", "sentiment", "labels", "gold_label", "score", "is_duplicate")
PAIRS = (
    ("text_a", "text_b"),
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("text1", "text2"),
    ("question", "sentence"),
)
"""Usual names of the two columns of a pair."""
FIELDS: dict[str, dict[str, tuple[str, ...]]] = {
    "classify": {"text": TEXT, "label": LABEL},
    "pair": {"text_a": (), "text_b": (), "label": LABEL},
    "tag": {
        "tokens": ("tokens", "words"),
        "tags": ("tags", "ner_tags"),
        "text": TEXT,
        "spans": ("spans",),
    },
    "qa": {"context": ("context",), "question": ("question",), "answers": ("answers",), "id": ("id",)},
    "fill-mask": {"text": TEXT},
}
"""By task: the fields of an example, and the usual names of their columns, the field's own first."""
LABELS = ("label", "tags", "spans", "answers")
"""Fields that are answers of a head, not its inputs."""
NEEDED = {"classify": ("text", "label"), "pair": ("text_a", "text_b", "label"), "fill-mask": ("text",)}
MAX_SETS = 1000
"""Sets of column names that are cached."""
MIN_WORDS = 4
"""A cell of the first line with this many words is a text, not a column name."""


@dataclass
class Columns:
    """The columns of the fields of a task, looked up once per set of names."""

    task: str
    chosen: Mapping[str, str] = field(default_factory=dict)
    labeled: bool = True
    """Whether records must have labels. If not, their columns are ignored."""
    extra: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Extra fields, and the usual names of their columns."""
    tells: bool = True
    """Whether to print on standard error how a file without names is read."""
    _found: dict[tuple[str, ...], dict[str, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in self.chosen:
            if name not in {*FIELDS[self.task], *self.extra}:
                known = ", ".join({**FIELDS[self.task], **self.extra})
                raise ColumnError(f"--columns {name}={self.chosen[name]}: expected a field of {self.task}: {known}")
            if same := [other for other in self.chosen if self.chosen[other] == self.chosen[name] and other != name]:
                raise ColumnError(
                    f"--columns names the column {self.chosen[name]!r} for {name} and {same[0]}, expected another for "
                    "each; correct one"
                )

    def rename(self, line: Line) -> Line:
        """Return a record with the names of fields as keys; raise ColumnError if two columns fit one field."""
        keys = tuple(line.record)
        if len(self._found) == MAX_SETS:
            self._found.clear()
        if keys not in self._found:
            self._found[keys] = self._columns(line.place, keys)
        found = self._found[keys]
        if all(name == key for name, key in found.items()):
            return line
        return replace(line, record=line.record | {name: line.record[key] for name, key in found.items()})

    def read(self, path: Path, names: Sequence[str]) -> list[str] | None:
        """Return the columns of a table to read: those of the inputs if labels are not needed; None means all."""
        if self.labeled and self.task != "fill-mask":
            return None
        found = self._columns(str(path), names)
        if not self.labeled and self._missing(found):
            self._refuse(str(path), names, self._missing(found))
        self._check_extra(str(path), names, found)
        return list(found.values()) or None

    def heads(self, cells: Sequence[str]) -> bool:
        """Tell whether the first line of a text file names columns, or the columns were chosen."""
        names = [cell.strip().strip('"') for cell in cells]
        usual = FIELDS[self.task].get("text", ())
        return "text" in self.chosen or (len(names) > 1 and any(_plain(name) in usual for name in names))

    def name(self, path: Path, rows: list[list[str]]) -> tuple[list[str], bool]:
        """Return the names of the columns of a table, and whether its first row is data."""
        first, rest = [cell.strip() for cell in rows[0]], rows[1:]
        numbers = [str(number) for number in range(len(first))]
        if not self._knows(first):
            if self.chosen and set(self.chosen.values()) <= set(numbers):
                return numbers, self._is_data(first, rest)
            if _looks_like_data(first, rest):
                return self._guess(path, rows), True
        for name in set(first) - {""}:
            if first.count(name) > 1:
                raise ColumnError(f"{path}:1: two columns are named {name!r}, expected different names; rename one")
        if self.chosen and set(self.chosen.values()) <= set(numbers):
            return numbers, False
        self._check(path, first)
        return first, False

    @property
    def fields(self) -> dict[str, Sequence[str]]:
        """Return the fields to look for, and the usual names of their columns."""
        known = FIELDS[self.task].items()
        return {name: usual for name, usual in known if self.labeled or name not in LABELS} | dict(self.extra)

    @property
    def _needed(self) -> list[str]:
        """Return the fields that every example needs."""
        return [name for name in NEEDED.get(self.task, ()) if self.labeled or name != "label"]

    # ---- names -------------------------------------------------------------------------------------------------------

    def _knows(self, names: Sequence[str]) -> bool:
        """Tell whether one of these names is a usual or a chosen one."""
        usual = {*chain.from_iterable(FIELDS[self.task].values()), *self.chosen.values()}
        if self.task == "pair":
            usual |= set(chain.from_iterable(PAIRS))
        return any(_plain(name) in usual or name in usual for name in names)

    def _columns(self, place: str, keys: Sequence[str]) -> dict[str, str]:
        """Return the column of each field that the file has."""
        found = {} if self.task != "pair" else self._pair(place, keys)
        for name, usual in self.fields.items():
            if name in self.chosen:
                if self.chosen[name] not in keys:
                    raise ColumnError(
                        f"{place}: there is no column {self.chosen[name]!r} for {name}, expected one of "
                        f"{', '.join(keys)}; correct --columns {name}={self.chosen[name]}"
                    )
                found[name] = self.chosen[name]
            elif column := self._usual(place, name, usual, keys):
                found[name] = column
        return found

    def _usual(self, place: str, name: str, usual: Sequence[str], keys: Sequence[str]) -> str | None:
        if name in keys:
            return name
        free = [key for key in keys if key not in self.chosen.values()]
        found = [key for key in free if _plain(key) == name] or [key for key in free if _plain(key) in usual]
        if len(found) > 1:
            self._ambiguous(place, name, found)
        return found[0] if found else None

    def _pair(self, place: str, keys: Sequence[str]) -> dict[str, str]:
        """Return the columns of two texts, if neither is chosen."""
        plain = {_plain(key): key for key in keys}
        found = [pair for pair in PAIRS if set(pair) <= plain.keys()]
        if {"text_a", "text_b"} & self.chosen.keys() or not found:
            return {}
        if len(found) > 1 and found[0] != PAIRS[0]:
            self._ambiguous(place, "text_a", [plain[first] for first, _ in found])
        return dict(zip(("text_a", "text_b"), (plain[part] for part in found[0]), strict=True))

    def _ambiguous(self, place: str, name: str, found: Sequence[str]) -> NoReturn:
        raise ColumnError(
            f"{place}: {name} could be the column {' or '.join(found)}, expected one; choose it with --columns "
            f"{name}={found[0]}"
        )

    def _missing(self, found: Mapping[str, str]) -> list[str]:
        """Return the needed fields for which the table has no column."""
        if not self.labeled and self.task == "tag":
            return [] if "tokens" in found or "text" in found else ["text"]
        needed = ["question", "context"] if not self.labeled and self.task == "qa" else self._needed
        return [name for name in needed if name not in found]

    def _check(self, path: Path, names: Sequence[str]) -> None:
        """Raise ColumnError for a table without a column that the task needs: all its rows would be broken."""
        found = self._columns(f"{path}:1", names)
        missing = self._missing(found)
        self._check_extra(f"{path}:1", names, found)
        if missing:
            numbers = ",".join(f"{needed}={number}" for number, needed in enumerate(self._needed or missing))
            remedy = f", or, if the first line is not a header, number the columns: --columns {numbers}"
            self._refuse(f"{path}:1", names, missing, remedy)

    def _check_extra(self, place: str, names: Sequence[str], found: Mapping[str, str]) -> None:
        """Raise ColumnError if a requested extra column is missing."""
        for name, usual in self.extra.items():
            if not usual and name not in found:
                raise ColumnError(f"{place}: there is no column {name!r} among {', '.join(names)}; name one of these")

    def _refuse(self, place: str, names: Sequence[str], missing: Sequence[str], remedy: str = "") -> NoReturn:
        wanted = ",".join(f"{name}=COLUMN" for name in missing)
        raise ColumnError(
            f"{place}: no column is known as {' or '.join(missing)} among {', '.join(names)}; name it with "
            f"--columns {wanted}{remedy}"
        )

    # ---- files without names -----------------------------------------------------------------------------------------

    def _is_data(self, first: Sequence[str], rest: Sequence[Sequence[str]]) -> bool:
        """Tell whether the first row is data, if the columns are chosen by number."""
        label = int(self.chosen.get("label", 0))
        return _looks_like_data(first, rest) or first[label] in {row[label] for row in rest if len(row) > label}

    def _guess(self, path: Path, rows: Sequence[Sequence[str]]) -> list[str]:
        """Return names for the columns of a file without a header; raise ColumnError if they are ambiguous."""
        names = self._guessed(rows)
        needed = self._needed
        if names is None:
            taken = ",".join(f"{name}={number}" for number, name in enumerate(needed or self.fields))
            raise ColumnError(
                f"{path}:1: the first line ({', '.join(rows[0])[:60]}) has no names of columns; add a header, or "
                f"number the columns from 0, such as --columns {taken}"
            )
        if self.tells:
            taken = ",".join(f"{name}={names.index(name)}" for name in needed)
            tell(f"{path} has no header; its columns are read as {', '.join(names)}; to change that: --columns {taken}")
        return names

    def _guessed(self, rows: Sequence[Sequence[str]]) -> list[str] | None:
        """Return guessed names: the texts in order, and the label, which may be missing if labels are not needed."""
        texts = [name for name in self._needed if name != "label"]
        if not self.labeled and texts and len(rows[0]) == len(texts):
            return texts
        label = _label_column(rows) if texts and len(rows[0]) == len(texts) + 1 and self.task != "fill-mask" else None
        return None if label is None else [*texts[:label], "label", *texts[label:]]


def _plain(name: str) -> str:
    """Return a name in lowercase, with underscores for spaces and hyphens, because tools differ in these."""
    return name.strip().casefold().replace(" ", "_").replace("-", "_")


def _looks_like_data(first: Sequence[str], rest: Sequence[Sequence[str]]) -> bool:
    """Tell whether a cell of the first row is a number, a sentence, or a value that its column repeats."""
    below = [{row[number] for row in rest if len(row) > number} for number in range(len(first))]
    return any(
        cell.lstrip("-").replace(".", "", 1).isdecimal() or len(cell.split()) >= MIN_WORDS or (cell and cell in known)
        for cell, known in zip(first, below, strict=True)
    )


def _label_column(rows: Sequence[Sequence[str]]) -> int | None:
    """Return the column with the fewest and shortest values; None if no column has both, or values never repeat."""
    columns = list(zip(*(row for row in rows if len(row) == len(rows[0])), strict=True))
    lengths = [sum(map(len, column)) for column in columns]
    shortest = min(range(len(columns)), key=lengths.__getitem__)
    fewest = min(range(len(columns)), key=lambda number: (len(set(columns[number])), lengths[number]))
    distinct = len(set(columns[fewest]))
    return fewest if fewest == shortest and (distinct < len(columns[fewest]) or len(rows) < 3) else None
