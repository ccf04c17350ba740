"""Suspicious labels of a data set: each is read as it is written, and reported.

To a program, these are separate classes, though people seldom mean that: labels that differ only in capitals, a cell
that pandas writes for a missing value, several labels in one string, and a number with a decimal comma.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence

from training.text.examples import Example, PairExample, TaggedExample, TextExample, labels_in
from training.text.notes import Notes

MISSING = {"nan", "null", "none", "n/a", "na", "<na>", "nat", "?"}
"""Values that tools and people write for a missing label."""
DIVIDERS = "|;,"
DECIMAL_COMMA = re.compile(r"-?\d+,\d+")
MAX_SHOWN = 3


def note_labels(examples: Iterable[Example], notes: Notes) -> None:
    """Count the examples whose label is probably a mistake."""
    found = Counter(label for one in examples if isinstance(one, TextExample | PairExample) for label in labels_in(one))
    for sentence, suspects in (
        ("labels that differ from another only in capitals or blanks", list(_alike(found))),
        ("labels that may stand for a missing one; remove such rows unless it is a class", list(_missing(found))),
        ('labels that seem to join several; write a list such as ["a", "b"]', list(_joined(found))),
        ("labels with a decimal comma are classes; write numbers with a point", _with_comma(found)),
    ):
        if suspects:
            notes[f"{sentence} ({shown(suspects)})"] += sum(map(found.__getitem__, suspects))


def note_words(examples: Sequence[Example], notes: Notes) -> None:
    """Count tagged sentences of one word, if no sentence has more: then each row of a table was read as a sentence."""
    if len(examples) > 1 and all(isinstance(one, TaggedExample) and len(one.tokens) == 1 for one in examples):
        notes["sentences of one word, so no word is seen beside another; write a sentence per row"] += len(examples)


def note_lists(examples: Iterable[Example], notes: Notes) -> None:
    """Count the labels if all are lists of one class: some tools write exclusive classes in this form."""
    labels = [one.label for one in examples if isinstance(one, TextExample | PairExample)]
    if labels and all(isinstance(label, tuple) and len(label) == 1 for label in labels):
        notes["lists of one label, read as labels of which several may be true; if not, write strings"] += len(labels)


def shown(labels: list[str]) -> str:
    """Return the first labels, as a list for people."""
    return ", ".join(map(repr, labels[:MAX_SHOWN])) + (", …" if len(labels) > MAX_SHOWN else "")


def _alike(found: Counter[str]) -> Iterator[str]:
    """Yield the rarer ones among labels that look the same to people."""
    same: dict[str, list[str]] = defaultdict(list)
    for label, _ in found.most_common():
        same[" ".join(label.casefold().split())].append(label)
    return (label for labels in same.values() for label in labels[1:])


def _missing(found: Counter[str]) -> Iterator[str]:
    return (label for label in found if label.strip().casefold() in MISSING)


def _joined(found: Counter[str]) -> Iterator[str]:
    """Yield labels with several parts, all of which occur in other labels."""
    for divider in DIVIDERS:
        parts = {label: [part for each in label.split(divider) if (part := each.strip())] for label in found}
        counted = Counter(part for divided in parts.values() for part in set(divided))
        for label, divided in parts.items():
            if len(divided) > 1 and all(counted[part] > 1 for part in divided) and not _is_number(label):
                yield label


def _is_number(label: str) -> bool:
    return DECIMAL_COMMA.fullmatch(label) is not None


def _with_comma(found: Counter[str]) -> list[str]:
    """Return the labels if all are numbers and some have a comma."""
    numbers = [label for label in found if _is_number(label)]
    whole = all(_is_number(label) or label.lstrip("-").isdecimal() for label in found)
    return numbers if whole else []
