"""What `head` makes of few labeled examples, beside tf-idf with logistic regression.

    python -m tests.benchmarks.few_examples TRAIN --test TEST --per-class 8 [--classes 100] [--without LABEL]

TRAIN and TEST are files of {"text", "label"}. Of each class the same number of rows is drawn by a seed; with --classes
that many classes are drawn first, of those with enough rows. Both learn from the same rows and answer all test rows.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from models.bundle import read_bundle
from models.predictor import Predictor
from training.__main__ import main as train
from training.evaluation.evaluate import evaluate
from training.head.worth import bag_of_words
from training.text.examples import TextExample, read_examples

Examples = list[TextExample]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the accuracy of both and the time of `head`; return the exit status."""
    options = parse(arguments)
    rows, asked = draw(options)
    with tempfile.TemporaryDirectory() as place:
        data, test, out = (Path(place) / name for name in ("train.jsonl", "test.jsonl", "few"))
        for path, examples in ((data, rows), (test, asked)):
            lines = (json.dumps({"text": one.text, "label": one.label}) for one in examples)
            path.write_text("\n".join(lines), encoding="utf8")
        began, spent = time.perf_counter(), os.times()
        train(["head", str(data), "--task", "classify", "--out", str(out), *(["--freeze"] if options.freeze else [])])
        seconds, cpu = time.perf_counter() - began, sum(os.times()[:4]) - sum(spent[:4])
        accuracy = evaluate(Predictor(read_bundle(out)), "few", [test])["accuracy"]
    classes = len({one.label for one in rows})
    sys.stdout.write(
        f"{classes} classes, {len(rows)} rows, {len(asked)} test rows: head {100 * accuracy:.1f} %, "
        f"tf-idf {tf_idf(rows, asked)}; {seconds:.0f} s, {cpu:.0f} s of CPU\n"
    )
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m tests.benchmarks.few_examples", description=__doc__)
    add = parser.add_argument
    add("train", type=Path)
    add("--test", type=Path, required=True)
    add("--per-class", type=int, default=8, help="default: 8")
    add("--classes", type=int, help="default: all")
    add("--without", metavar="LABEL", help="a class that is left out, such as what is out of scope")
    add("--freeze", action="store_true", help="as of head")
    add("--seed", type=int, default=0)
    return parser.parse_args(arguments)


def draw(options: argparse.Namespace) -> tuple[Examples, Examples]:
    """Return training rows, the same number of each class, and all test rows of these classes."""
    generator = np.random.default_rng(options.seed)
    by_class: dict[str, Examples] = defaultdict(list)
    for one in read_examples(options.train, "classify"):
        by_class[str(one.label)].append(one)
    by_class.pop(options.without, None)
    known = sorted(label for label, found in by_class.items() if len(found) >= options.per_class)
    chosen = set(generator.choice(known, options.classes or len(known), replace=False).tolist())
    rows: Examples = []
    for label in sorted(chosen):
        places = generator.choice(len(by_class[label]), options.per_class, replace=False)
        rows += [by_class[label][place] for place in places]
    return rows, [one for one in read_examples(options.test, "classify") if str(one.label) in chosen]


def tf_idf(rows: Examples, asked: Examples) -> str:
    """Return the accuracy of the usual strength of regularization, and of the one that `head` compares with."""
    usual, weaker = (bag_of_words(rows, asked, strength) for strength in (1.0, 10.0))
    return " and ".join(f"{100 * found:.1f} %" for found in (usual, weaker) if found is not None) + " (C = 1 and 10)"


if __name__ == "__main__":
    sys.exit(main())
