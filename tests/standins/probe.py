"""Reports what ONNX Runtime's CUDA provider does with a bundle; runs on the stand-ins, in their environment.

    python -m tests.standins.probe BUNDLE [--threads N] [--batches N] [--tokens N] [--masks N]

Runs batches of mixed lengths, and prints a line of JSON last: what the device was asked for by all of them, and by each
if one thread runs them. Before it come the lines of ONNX Runtime (ORT_ENABLE_ATTENTION_KERNEL_DEBUG_INFO=1).
"""

import argparse
import json
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from models import onnx_runtime
from models.bundle import Bundle, read_bundle
from models.errors import BertheadsError
from models.row import Row
from models.session import Session
from tests.standins.device_log import DeviceLog, parse

VERBOSE = 0
CHOICES = 5
Items = list[tuple[str, Row]]


def main(arguments: list[str]) -> int:
    """Return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.standins.probe", description=__doc__)
    add = parser.add_argument
    add("bundle", type=Path)
    add("--batches", type=int, default=0)
    add("--tokens", type=int, default=2048, help="of a batch, at most")
    add("--threads", type=int, default=1, help="that run batches at once")
    add("--masks", type=int, default=0, help="of each row, for five tokens each; only fill-mask heads are asked then")
    options = parser.parse_args(arguments)
    try:
        bundle = read_bundle(options.bundle)
        onnx_runtime.prepare("cuda", 0)
        onnx_runtime.ERRORS_ONLY = VERBOSE  # ONNX Runtime says on which provider each node runs
        found = probe(bundle, options)
    except BertheadsError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    sys.stdout.write("\n" + json.dumps(found) + "\n")
    return 0


def probe(bundle: Bundle, options: argparse.Namespace) -> dict[str, Any]:
    session = Session(bundle, provider="cuda")
    session.warm_up()
    log = Path(os.environ["STANDIN_LOG"]) / str(os.getpid())
    batches = list(mixed_batches(bundle, options))
    marks = [log.stat().st_size]

    def run(items: Items) -> None:
        session.run(items)
        marks.append(log.stat().st_size)  # it is read later: the device would wait meanwhile

    with ThreadPoolExecutor(options.threads) as pool:
        list(pool.map(run, batches))
    contents = log.read_bytes()
    marks = [contents.rfind(b"\n", 0, mark) + 1 for mark in sorted(marks)]  # another thread may have been writing
    parts = [contents[start:end] for start, end in pairwise(marks)]
    found = [size_of(items) | counts(part) for items, part in zip(batches, parts, strict=True)]
    return {"batches": found} | counts(contents[marks[0] : marks[-1]])


def size_of(items: Items) -> dict[str, int]:
    return {"rows": len(items), "tokens": sum(len(row.input_ids) for _, row in items)}


def counts(lines: bytes) -> dict[str, Any]:
    """Return the figures of a part of a log that tests check."""
    log = DeviceLog(parse(lines.decode().splitlines()))
    waits = log.idle()
    return {
        "launches": len(log.work),
        "kernels": log.kernels(),
        "products": log.count("product"),
        "plans": log.count("plan"),
        "waits": log.count("wait"),
        "takes": log.count("take"),
        "missing": [entry.name for entry in log.entries if entry.what == "missing"],
        "copies": [[direction, size, times] for (direction, size), times in log.copies().items()],
        "late": sum(wait > 0 for wait in waits),
        "idle_ms": sum(waits) / 1e6,
        "busy_ms": log.busy() / 1e6,
    }


def mixed_batches(bundle: Bundle, options: argparse.Namespace) -> Iterator[Items]:
    """Yield batches of rows of 8 to 400 tokens, of any heads, up to so many tokens."""
    generator = np.random.default_rng(0)
    longest = min(400, bundle.manifest.encoder.max_length)
    heads = [name for name, head in bundle.manifest.heads.items() if not options.masks or head.task == "fill-mask"]
    positions, wanted = list(range(options.masks or 1)), (CHOICES,) if options.masks else ()
    for _ in range(options.batches):
        items: Items = []
        while sum(len(row.input_ids) for _, row in items) < options.tokens - longest:
            ids = generator.integers(5, bundle.tokenizer.vocab_size, generator.integers(8, longest + 1)).tolist()
            items.append((heads[len(items) % len(heads)], Row(ids, [0] * len(ids), positions, wanted)))
        yield items


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
