"""Whether answers depend on the load, and whether memory grows: python -m tests.benchmarks.soak.

Every head of the bundle is asked texts of 3 to 500 tokens, first alone, one request at a time, and then in random order
over many connections; each answer must say the same, its scores within 1e-6. Memory is taken after a hundredth of the
requests and after the last.
"""

import argparse
import json
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from models.bundle import read_bundle
from models.errors import BertheadsError
from service.settings import STARTER
from tests.benchmarks.contenders import memory_bytes, our_server
from tests.benchmarks.load import repeat
from tests.benchmarks.workloads import TEXTS, Workloads, read_texts

TOLERANCE = 1e-6
CHUNK = 1000  # requests between two looks at memory


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the exit status: 1 if an answer differed."""
    parser = argparse.ArgumentParser("python -m tests.benchmarks.soak", description=__doc__)
    parser.add_argument("--bundle", type=Path, default=STARTER, metavar="DIR")
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--inputs", type=int, default=500, help="different ones")
    parser.add_argument("--connections", type=int, default=64)
    options = parser.parse_args(arguments)
    try:
        found = soak(options.bundle.resolve(), options.inputs, options.requests, options.connections)
    except BertheadsError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    sys.stdout.write(json.dumps(found, indent=2) + "\n")
    return int(found["largest_difference"] > TOLERANCE)


def soak(directory: Path, inputs: int, requests: int, connections: int) -> dict[str, Any]:
    """Return what was asked, the largest difference of a score, and memory at the beginning and at the end [MB]."""
    bundle = read_bundle(directory)
    questions = Workloads(bundle, read_texts(TEXTS)).every_length(inputs)
    calls = [question.call for question in questions]
    with our_server(directory, questions[0]) as server:
        alone = repeat(server.address, calls, len(calls), 1)
        expected = {answer.number: json.loads(answer.body) for answer in alone.answers}
        order = random.Random(0)
        largest, memory = 0.0, list[float]()
        for _ in range(0, requests, CHUNK):
            numbers = [order.randrange(len(calls)) for _ in range(CHUNK)]
            asked = [calls[number] for number in numbers]
            load = server.loader.submit(repeat, server.address, asked, CHUNK, connections).result()
            for answer in load.answers:
                largest = max(largest, difference(json.loads(answer.body), expected[numbers[answer.number]]))
            memory.append(memory_bytes(server.pid) / 2**20)
    lengths = [question.tokens for question in questions]
    return {
        "requests": len(memory) * CHUNK,
        "inputs": len(calls),
        "tokens": [min(lengths), max(lengths)],
        "connections": connections,
        "largest_difference": largest,
        "memory_mb": {"first": memory[0], "last": memory[-1], "most": max(memory)},
    }


def difference(one: Any, other: Any) -> float:
    """Return the largest difference between numbers at the same places; infinity where anything else differs."""
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other)
    if type(one) is not type(other):
        return float("inf")
    if isinstance(one, dict):
        if one.keys() != other.keys():
            return float("inf")
        return max((difference(one[key], other[key]) for key in one), default=0.0)
    if isinstance(one, list):
        if len(one) != len(other):
            return float("inf")
        return max((difference(left, right) for left, right in zip(one, other, strict=True)), default=0.0)
    return 0.0 if one == other else float("inf")


if __name__ == "__main__":
    sys.exit(main())
