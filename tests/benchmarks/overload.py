"""More requests than can be served, in an open loop: what is answered in time, and how soon the rest is refused.

The peak is what a closed loop gets; the rates are multiples of it. Each request gives itself a deadline, and one that
is answered within it counts as goodput.
"""

from collections.abc import Sequence
from itertools import cycle, islice
from typing import Any

import numpy as np

from tests.benchmarks.contenders import Server
from tests.benchmarks.load import Call, Load, offer

RATES = (0.5, 0.8, 1.2, 2.0, 5.0)  # of the peak
PEAK_CONNECTIONS = 32
DEADLINES = 4  # deadline, in p99s of the closed loop at the peak


def overload(server: Server, calls: Sequence[Call], seconds: float, rounds: int) -> list[dict[str, Any]]:
    """Return a line a rate: offered and answered a second, goodput by the peak, latencies and statuses."""
    lines = []
    for number in range(rounds):
        peak = server.run(calls, PEAK_CONNECTIONS, seconds)
        deadline = DEADLINES * peak["p99"] / 1000
        headers = f"X-Deadline-Ms: {round(1000 * deadline)}\r\n"
        for rate in RATES:
            mixed = list(islice(cycle(calls), number, number + len(calls)))
            load = server.loader.submit(
                offer, server.address, mixed, rate * peak["rate"], seconds, headers, number
            ).result()
            lines.append({"rate": rate, "round": number, "p99_at_peak": peak["p99"], **outcome(load, peak, deadline)})
    return lines


def outcome(load: Load, peak: dict[str, float], deadline: float) -> dict[str, Any]:
    """Describe one load beside the closed loop's figures."""
    answered = np.array(load.latencies())
    refused = np.array(load.latencies(429))
    statuses = sorted({answer.status for answer in load.answers})
    return {
        "deadline_ms": 1000 * deadline,
        "offered": len(load.answers) / load.seconds,
        "goodput": float((answered <= deadline).sum()) / load.seconds / peak["rate"],
        "p99": float(np.percentile(answered, 99)) * 1000 if len(answered) else 0.0,
        "refusal_p50": float(np.median(refused)) * 1000 if len(refused) else 0.0,
        "refusal_p99": float(np.percentile(refused, 99)) * 1000 if len(refused) else 0.0,
        "statuses": {status: len(load.latencies(status)) for status in statuses},
    }
