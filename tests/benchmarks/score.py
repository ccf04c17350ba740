"""`bertheads-score` against the session in a loop on the same short rows: python -m tests.benchmarks.score

Both take all cores, in turn, and neither is given time to start: rows are counted from the first part to the last.
The loop has its rows tokenized beforehand, in batches of like length, with one thread per core.
"""

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import models
from models.bundle import read_bundle
from models.cgroup import usable_cores
from models.predictor import Predictor, like_length
from models.session import Session
from training.scoring.folder import claimed
from training.scoring.job import Job
from training.scoring.local import run

STARTER = Path(models.__file__).parent / "starter"
TEXTS = Path(__file__).with_name("texts.jsonl")
HEAD = "sentiment"


def texts(count: int) -> Iterator[str]:
    """Yield this many different texts of one to three sentences."""
    known = [json.loads(line) for line in TEXTS.read_text("utf8").splitlines()]
    for number in range(count):
        text = known[number % len(known)]
        yield f"{text['text'] if isinstance(text, dict) else text} {number}"


def scored(file: Path, out: Path) -> float:
    """Return rows/s of a run, from its first part to its last."""
    job = Job((file,), STARTER, HEAD, "classify", out)
    with claimed(job, read_bundle(STARTER)):
        rows, began = 0, 0.0
        for summary in run(job, usable_cores()):
            rows, began = (rows + summary.rows, began) if began else (0, time.monotonic())
        return rows / (time.monotonic() - began)


def looped(predictor: Predictor, session: Session, rows: list[str]) -> float:
    """Return rows/s of the session alone."""
    task = predictor.task(HEAD)
    parameters = task.parse_parameters({})
    encoded = {number: task.encode(text, parameters) for number, text in enumerate(rows)}
    batches = [[(HEAD, encoded[number].rows[place]) for number, place in batch] for batch in like_length(encoded)]
    began = time.monotonic()
    with ThreadPoolExecutor(usable_cores()) as pool:
        list(pool.map(session.run, batches))
    return len(rows) / (time.monotonic() - began)


def main() -> None:
    """Print rows/s of each round, and the median of their ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    predictor, session = Predictor(STARTER), Session(read_bundle(STARTER))
    ratios = []
    with tempfile.TemporaryDirectory() as folder:
        file, out = Path(folder) / "rows.jsonl", Path(folder) / "out"
        file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts(arguments.rows)))
        for _ in range(arguments.rounds):
            ours = scored(file, out)
            shutil.rmtree(out)
            theirs = looped(predictor, session, list(texts(arguments.rows)))
            ratios.append(ours / theirs)
            sys.stdout.write(f"bertheads-score {ours:,.0f} rows/s, session {theirs:,.0f} rows/s: {ratios[-1]:.2f}\n")
    sys.stdout.write(f"median {statistics.median(ratios):.2f} on {usable_cores()} cores, {arguments.rows:,} rows\n")


if __name__ == "__main__":
    main()
