"""What a token costs by the length of its text, and what more connections bring: python -m tests.benchmarks.curves.

Writes length.png and connections.png into --out, and prints their figures as JSON. A cliff in either is a defect.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from matplotlib.figure import Figure

from models.bundle import Bundle, read_bundle
from models.errors import BertheadsError
from models.row import Row
from models.session import Session
from service.settings import STARTER
from tests.benchmarks.contenders import Server, our_server
from tests.benchmarks.workloads import TEXTS, Question, Workloads, read_texts

LENGTHS = (8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
CONNECTIONS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
REPEATS = 15


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the exit status."""
    parser = argparse.ArgumentParser("python -m tests.benchmarks.curves", description=__doc__)
    parser.add_argument("--bundle", type=Path, default=STARTER, metavar="DIR")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, metavar="DIR")
    parser.add_argument("--seconds", type=float, default=4.0, help="a number of connections; default: 4")
    options = parser.parse_args(arguments)
    try:
        bundle = read_bundle(options.bundle.resolve())
        mixed = Workloads(bundle, read_texts(TEXTS)).make("mixed")
        figures = {"by_length": by_length(bundle, mixed[0].head)}
        with our_server(bundle.directory, mixed[0]) as server:
            figures["by_connections"] = by_connections(server, mixed, options.seconds)
    except BertheadsError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    draw(figures, options.out)
    sys.stdout.write(json.dumps(figures, indent=2) + "\n")
    return 0


def by_length(bundle: Bundle, head: str) -> list[dict[str, float]]:
    """Microseconds per token of one row, by its tokens, on one thread; medians."""
    session = Session(bundle)
    filler = bundle.tokenizer.encode_ids(["word"])[0][0]
    found = []
    for length in (each for each in LENGTHS if each <= session.max_length):
        row = Row([filler] * length, [0] * length, [0])
        found.append({"tokens": length, "us_a_token": median(seconds(session, head, row)) / length * 1e6})
    return found


def seconds(session: Session, head: str, row: Row) -> list[float]:
    taken = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        session.run([(head, row)])
        taken.append(time.perf_counter() - began)
    return taken


def by_connections(server: Server, questions: Sequence[Question], seconds: float) -> list[dict[str, float]]:
    """Tokens per second of the whole service, and latency, by connections."""
    calls = [question.call for question in questions]
    found = []
    for connections in CONNECTIONS:
        figures = server.run(calls, connections, seconds)
        names = ("rate", "p50", "p99", "rows_a_batch", "padding")
        tokens = figures["tokens"] / figures["requests"] * figures["rate"]
        found.append({"connections": connections, "tokens_per_s": tokens, **{name: figures[name] for name in names}})
    return found


def draw(figures: dict[str, list[dict[str, float]]], directory: Path) -> None:
    """Write both curves as PNG."""
    for file, rows, across, up, label in (
        ("length.png", figures["by_length"], "tokens", "us_a_token", "µs a token, one thread"),
        ("connections.png", figures["by_connections"], "connections", "tokens_per_s", "tokens/s over HTTP"),
    ):
        figure = Figure(figsize=(6, 3.5), layout="constrained")
        axes = figure.subplots()
        axes.plot([row[across] for row in rows], [row[up] for row in rows], marker="o")
        axes.set_xscale("log", base=2)
        axes.set_xticks([row[across] for row in rows], [f"{row[across]:.0f}" for row in rows])
        axes.set_ylim(bottom=0)
        axes.set_xlabel(across)
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)
        figure.savefig(directory / file, dpi=110)


if __name__ == "__main__":
    sys.exit(main())
