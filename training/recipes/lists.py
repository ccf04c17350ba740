"""Generates lists, signatures and bylines from the names in tagged documents; the sentences of a treebank have none.

    python training/recipes/lists.py train_documents.jsonl.xz lists.jsonl

Each text joins names of one or two types with the separators that people write, often without spaces.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from training.text.examples import SpannedText, read_examples

COUNT = 1600
BETWEEN = ["\n- ", "\n* ", "\n", ", ", ",", "; ", " | ", " / ", "/", ".", " - ", " & ", "\t"]
HEADS = [
    "",
    "",
    "",
    "Attendees: ",
    "Contact:",
    "From: ",
    "Places:\n",
    "Offices: ",
    "Source:",
    "see also ",
    "Re: ",
    "cc: ",
]
TAILS = ["", "", "", ".", " yesterday", ", Monday.", " (2 of 3)", "\n\nThanks", " 12/3", " trip", " office"]
PAIRS = [("PER", "LOC"), ("PER", "ORG"), ("ORG", "LOC"), ("LOC", "LOC"), ("PER", "PER")]
GLUE = [",", "@", ", ", " - ", ".", "'", ":", "/", " of ", " in ", ". The ", ".The "]

Named = list[tuple[str, str]]


def names(documents: list[SpannedText]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {"PER": [], "ORG": [], "LOC": []}
    for document in documents:
        for start, end, kind in document.spans:
            if end - start < 40:
                found[kind].append(document.text[start:end])
    return found


def made(known: dict[str, list[str]], rng: np.random.Generator) -> Iterator[SpannedText]:
    for number in range(COUNT):
        kinds: tuple[str, ...]
        if number % 2:
            kinds = PAIRS[rng.integers(len(PAIRS))]
            glue = GLUE[rng.integers(len(GLUE))]
        else:
            kinds = (str(rng.choice(["PER", "ORG", "LOC"])),) * int(rng.integers(2, 7))
            glue = BETWEEN[rng.integers(len(BETWEEN))]
        chosen = [(known[kind][rng.integers(len(known[kind]))], kind) for kind in kinds]
        head = glue.strip("\n") if glue.startswith("\n") and rng.random() < 0.6 else HEADS[rng.integers(len(HEADS))]
        yield spelled(head, chosen, glue, TAILS[rng.integers(len(TAILS))])


def spelled(head: str, chosen: Named, glue: str, tail: str) -> SpannedText:
    text, spans = head, []
    for number, (name, kind) in enumerate(chosen):
        text += glue if number else ""
        spans.append((len(text), len(text) + len(name), kind))
        text += name
    return SpannedText(text + tail, spans)


if __name__ == "__main__":
    known = names(read_examples(Path(sys.argv[1]), "tag"))  # type: ignore[arg-type]
    with Path(sys.argv[2]).open("w", encoding="utf8") as file:
        for one in made(known, np.random.default_rng(0)):
            file.write(json.dumps({"text": one.text, "spans": one.spans}, ensure_ascii=False) + "\n")
