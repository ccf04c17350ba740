"""More requests than can be served, in an open loop: what is answered in time, and how soon the rest is refused.

The peak is what a closed loop gets; the rates are multiples of it. Each request gives itself a deadline, and one that
is answered within it counts as goodput.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.benchmarks.contenders import Server
from tests.benchmarks.load import Load, offer
from tests.benchmarks.workloads import Question

RATES = (0.5, 0.8, 1.2, 2.0, 5.0)  # of the peak
PEAK_CONNECTIONS = 32
DEADLINES = 2  # deadline, in p99s of the closed loop at the peak


def overload(server: Server, questions: Sequence[Question], seconds: float, rounds: int) -> list[dict[str, Any]]:
    """Return a line a rate: offered and answered a second, goodput by the peak, latencies and statuses."""
    lines = []
    calls = [question.call for question in questions]
    lengths = [len(question.row.input_ids) for question in questions]
    long = set(np.argsort(lengths)[-len(lengths) // 4 :].tolist())
    for number in range(rounds):
        peak = server.run(calls, PEAK_CONNECTIONS, seconds)
        deadline = DEADLINES * peak["p99"] / 1000
        headers = f"X-Deadline-Ms: {round(1000 * deadline)}\r\n"
        for rate in RATES:
            wanted = rate * peak["rate"]
            load = server.loader.submit(offer, server.address, calls, wanted, seconds, headers, number).result()
            of_load = outcome(load, peak["rate"], deadline, long)
            lines.append({"rate": rate, "round": number, "p99_at_peak": peak["p99"], **of_load})
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
        "p99": percentile_ms(answered, 99),
        "p99_long": percentile_ms(answered_long, 99),
        "refusal_p50": percentile_ms(refused, 50),
        "refusal_p99": percentile_ms(refused, 99),
        "statuses": {status: len(load.latencies(status)) for status in statuses},
    }


def percentile_ms(seconds: NDArray[np.float64], percent: float) -> float:
    """Return 0 for none."""
    return float(np.percentile(seconds, percent)) * 1000 if len(seconds) else 0.0
