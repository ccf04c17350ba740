"""More requests than can be served, in an open loop: python -m tests.benchmarks.overload [--no-deadline].

The peak is what a closed loop gets; the rates are multiples of it. Goodput is what is answered in time: within the
deadline that each request gives itself, twice the p99 of the closed loop, or without deadlines within what the service
itself allows. The service runs on one core, so that the load has the others.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.bundle import read_bundle
from models.errors import BertheadsError
from service.settings import STARTER, Settings
from tests.benchmarks.contenders import Server, our_server
from tests.benchmarks.load import Load, offer
from tests.benchmarks.workloads import TEXTS, Question, Workloads, read_texts

RATES = (0.5, 0.8, 1.2, 2.0, 5.0)  # of the peak
PEAK_CONNECTIONS = 32
DEADLINES = 2  # deadline, in p99s of the closed loop at the peak


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the exit status."""
    parser = argparse.ArgumentParser("python -m tests.benchmarks.overload", description=__doc__)
    add = parser.add_argument
    add("--bundle", type=Path, default=STARTER, metavar="DIR")
    add("--workload", default="short", choices=("short", "mixed", "qa", "heads"), help="default: short")
    add("--no-deadline", action="store_true", help="requests do not give themselves a deadline")
    add("--rates", type=float, nargs="+", default=list(RATES), help="multiples of the peak")
    add("--seconds", type=float, default=5.0, help="of each measurement; default: 5")
    add("--rounds", type=int, default=1)
    options = parser.parse_args(arguments)
    try:
        bundle = read_bundle(options.bundle.resolve())
        questions = Workloads(bundle, read_texts(TEXTS)).make(options.workload)
        first, *others = sorted(os.sched_getaffinity(0))
        with our_server(bundle.directory, questions[0], cores={first}, loader_cores=set(others)) as server:
            lines = overload(
                server, questions, options.seconds, options.rounds, not options.no_deadline, tuple(options.rates)
            )
    except BertheadsError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    sys.stdout.write("".join(json.dumps(line) + "\n" for line in lines))
    return 0


def overload(
    server: Server,
    questions: Sequence[Question],
    seconds: float,
    rounds: int,
    deadlines: bool = True,
    rates: Sequence[float] = RATES,
) -> list[dict[str, Any]]:
    """Return a line for each rate: offered and answered per second, goodput by the peak, latencies and statuses."""
    lines = []
    calls = [question.call for question in questions]
    lengths = [question.tokens for question in questions]
    long = set(np.argsort(lengths)[-len(lengths) // 4 :].tolist())
    for number in range(rounds):
        peak = server.run(calls, PEAK_CONNECTIONS, seconds)
        deadline = DEADLINES * peak["p99"] / 1000 if deadlines else Settings.model_fields["deadline"].default
        headers = f"X-Deadline-Ms: {round(1000 * deadline)}\r\n" if deadlines else ""
        for rate in rates:
            wanted = rate * peak["rate"]
            load = server.loader.submit(offer, server.address, calls, wanted, seconds, headers, number).result()
            of_load = outcome(load, peak["rate"], deadline, long)
            lines.append({"rate": rate, "round": number, "peak": peak["rate"], "p99_at_peak": peak["p99"], **of_load})
    return lines


def outcome(load: Load, peak: float, deadline: float, long: set[int]) -> dict[str, Any]:
    """Describe one load beside the closed loop's rate; `long` are the numbers of the longest quarter of the calls."""
    answered = np.array(load.latencies())
    answered_long = np.array([each.seconds for each in load.answers if each.status == 200 and each.number in long])
    refused = np.array(load.latencies(429))
    statuses = sorted({answer.status for answer in load.answers})
    return {
        "deadline_ms": 1000 * deadline,
        "offered": len(load.answers) / load.seconds,
        "goodput": float((answered <= deadline).sum()) / load.seconds / peak,
        "p50": percentile_ms(answered, 50),
        "p99": percentile_ms(answered, 99),
        "p99_long": percentile_ms(answered_long, 99),
        "refusal_p50": percentile_ms(refused, 50),
        "refusal_p99": percentile_ms(refused, 99),
        "statuses": {status: len(load.latencies(status)) for status in statuses},
    }


def percentile_ms(seconds: NDArray[np.float64], percent: float) -> float:
    """Return 0 for none."""
    return float(np.percentile(seconds, percent)) * 1000 if len(seconds) else 0.0


if __name__ == "__main__":
    sys.exit(main())
