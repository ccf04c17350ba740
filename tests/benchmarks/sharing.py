"""What it costs that heads share a queue: python -m tests.benchmarks.sharing.

The texts of `short` go to each head alone and, shuffled, to all heads together. Both alternate in many short rounds,
since machines change their speed. With one queue per head, or batches of one head, the mixture would be slower than its
parts; 1.0 means that sharing costs nothing.
"""

import argparse
import json
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import harmonic_mean, median
from typing import Any

from models.bundle import read_bundle
from models.errors import BertheadsError
from service.settings import STARTER
from tests.benchmarks.contenders import Server, our_server
from tests.benchmarks.load import Call
from tests.benchmarks.workloads import TEXTS, Workloads, read_texts

MIXED = "all together"


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the exit status."""
    parser = argparse.ArgumentParser("python -m tests.benchmarks.sharing", description=__doc__)
    parser.add_argument("--bundle", type=Path, default=STARTER, metavar="DIR")
    parser.add_argument("--connections", type=int, default=32, metavar="N")
    parser.add_argument("--seconds", type=float, default=1.0, help="of each measurement; default: 1")
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args(arguments)
    try:
        bundle = read_bundle(options.bundle.resolve())
        asked = Workloads(bundle, read_texts(TEXTS)).every_task()
        first = next(iter(asked.values()))[0]
        with our_server(bundle.directory, first) as server:
            calls: dict[str, list[Call]] = {
                task: [question.call for question in questions] for task, questions in asked.items()
            }
            rounds = [alternate(server, calls, options.connections, options.seconds) for _ in range(options.rounds)]
    except BertheadsError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    sys.stdout.write(json.dumps(summary(rounds), indent=2) + "\n")
    return 0


def alternate(server: Server, calls: dict[str, list[Call]], connections: int, seconds: float) -> dict[str, float]:
    """Return requests per second of each head, and of all: equal numbers of questions of each."""
    mixed = [call for each in calls.values() for call in each]
    random.Random(0).shuffle(mixed)
    return {name: server.run(each, connections, seconds)["rate"] for name, each in {**calls, MIXED: mixed}.items()}


def summary(rounds: Sequence[dict[str, float]]) -> dict[str, Any]:
    """Return the median rates, and the median ratio of the mixture's rate to the one expected from its parts."""
    rates = {name: median(each[name] for each in rounds) for name in rounds[0]}
    ratios = [each[MIXED] / harmonic_mean([rate for name, rate in each.items() if name != MIXED]) for each in rounds]
    return {"requests_per_s": rates, "together_by_apart": median(ratios), "rounds": ratios}


if __name__ == "__main__":
    sys.exit(main())
