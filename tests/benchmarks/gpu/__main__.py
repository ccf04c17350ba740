"""What a GPU does with BERT-base and BERT-large: ten minutes on an H200, a line of JSON for each step, printed at once.

    python -m tests.benchmarks.gpu [--networks base large] [--bundles DIR ...] [--lengths N ...] [--workers N ...]

Correctness comes first: logits against fp32 on CPU, and of a row alone against the same row in a batch; and masks, by
all logits and by the tokens that the device chooses. Then: the first and the second run of new shapes; the peak of
products of random numbers; rows per second by length, packed and padded; requests per second over HTTP by front
processes; memory. Weights are random: what is measured is arithmetic. tests/benchmarks/README.md says how to bring what
it needs to a machine without internet. What it prints belongs there, with the device.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from models.bundle import read_bundle
from models.errors import BertheadsError
from models.onnx_runtime import Precision, Provider
from models.session import PREFERENCE, Session
from tests.benchmarks.gpu import engine, machine
from tests.benchmarks.gpu.http import WORKLOADS, over_http
from tests.benchmarks.peaks import product_peak

Figures = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the exit status."""
    options = _parser().parse_args(arguments)
    began = time.monotonic()
    try:
        for line in Run(options).steps():
            sys.stdout.write(json.dumps(line | {"minutes": round((time.monotonic() - began) / 60, 2)}) + "\n")
            sys.stdout.flush()
    except BertheadsError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.gpu", description=__doc__)
    add = parser.add_argument
    add("--networks", nargs="*", default=["base", "large"], help="tiny, base or large, of random weights")
    add(
        "--bundles",
        nargs="*",
        type=Path,
        default=[],
        metavar="DIR",
        help="made beforehand: fp16 and fp32, in place of networks",
    )
    add("--lengths", nargs="+", type=int, default=[64, 177, 384], metavar="N", help="tokens of a row")
    add("--workers", nargs="*", type=int, default=[1, 4, 8], metavar="N", help="front processes of the service")
    add("--workloads", nargs="*", choices=WORKLOADS, default=WORKLOADS, help="what the service is asked")
    add("--seconds", type=float, default=3.0, help="of each measurement; default: 3")
    add("--minutes", type=float, default=10.0, help="after which no further step begins; default: 10")
    add("--provider", choices=["cpu", "cuda"], default="cuda", help="cpu only to try this program")
    return parser


class Run:
    """The steps, in the order in which they matter."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.provider: Provider = options.provider
        self.fast: Precision = PREFERENCE[self.provider][0]
        self.end = time.monotonic() + 60 * options.minutes
        self.left_out: list[Figures] = []

    def steps(self) -> Iterator[Figures]:
        """Yield a line for each; the last one says what there was no time for. Raise BundleError without a device."""
        machine.check(self.provider)
        yield {"step": "device"} | machine.describe(self.provider)
        with tempfile.TemporaryDirectory() as place:
            yield from self._all(self._bundles(Path(place)), Path(place))
        yield {"step": "memory"} | machine.memory(self.provider)
        yield {"step": "end", "left_out": self.left_out}

    def step(self, line: Figures, measure: Callable[[], Figures]) -> Iterator[Figures]:
        """Yield a line with what was measured, or with the error: the steps behind it matter too."""
        if time.monotonic() >= self.end:
            self.left_out.append(line)
            return
        try:
            yield line | measure()
        except Exception as error:  # those of ONNX Runtime share no other base
            yield line | {"error": f"{type(error).__name__}: {error}"}

    def _bundles(self, place: Path) -> dict[str, Path]:
        if self.options.bundles:
            return {directory.name: directory for directory in self.options.bundles}
        from tests.benchmarks.gpu.random_bundles import make  # needs torch

        return {name: make(name, place / name, (self.fast, "fp32")) for name in self.options.networks}

    def _all(self, directories: dict[str, Path], place: Path) -> Iterator[Figures]:
        networks = {name: Network(name, path, self) for name, path in directories.items()}
        for network in networks.values():
            yield from network.correctness()
            yield from network.masks()
        first = next(iter(networks.values()))
        yield from first.new_shapes()
        peak = product_peak(self.fast, self.provider)
        yield {"step": "peak", "precision": self.fast, "tera_operations_per_s": peak / 1e12}
        for network in networks.values():
            yield from network.rates(peak)
        if self.fast == "fp16" and not self.options.bundles and time.monotonic() < self.end:
            yield from self._padded(next(iter(directories)), place, peak)
        for workers in self.options.workers:
            yield from first.http(workers)

    def _padded(self, name: str, place: Path, peak: float) -> Iterator[Figures]:
        """The same arithmetic by a graph that pads."""
        from tests.benchmarks.gpu.random_bundles import padded

        network = Network(f"{name}, padded", padded(name, place / "padded"), self)
        yield from network.new_shapes()
        yield from network.rates(peak)


class Network:
    """The steps of one network."""

    def __init__(self, name: str, directory: Path, run: Run) -> None:
        self.name, self.run, self.options = name, run, run.options
        self.bundle = read_bundle(directory)
        self.session = Session(self.bundle, provider=run.provider, precision=run.fast)
        self.head = next(iter(self.bundle.manifest.heads))

    def correctness(self) -> Iterator[Figures]:
        exact = Session(self.bundle, precision="fp32", threads=0)
        for head in self.bundle.manifest.heads:
            line = {"step": "correctness", "network": self.name, "head": head}
            yield from self.run.step(line, partial(engine.errors, self.session, exact, head))

    def masks(self) -> Iterator[Figures]:
        for name, head in self.bundle.manifest.heads.items():
            if head.task == "fill-mask":
                line = {"step": "masks", "network": self.name, "head": name}
                yield from self.run.step(line, partial(engine.masks, self.session, name))

    def new_shapes(self) -> Iterator[Figures]:
        line = {"step": "new shapes", "network": self.name}
        yield from self.run.step(line, partial(engine.first_and_second_runs, self.session, self.head))

    def rates(self, peak: float) -> Iterator[Figures]:
        for length in [*self.options.lengths, engine.MIXED]:
            rows = engine.rows_of(self.session, self.head, length)
            for lanes in (1, 2):
                line = {"step": "rows", "network": self.name, "length": length, "lanes": lanes}
                measure = partial(engine.rate, self.bundle, self.session, rows, lanes, self.options.seconds, peak)
                yield from self.run.step(line, measure)

    def http(self, workers: int) -> Iterator[Figures]:
        for workload in self.options.workloads:
            line = {"step": "http", "network": self.name, "workers": workers, "workload": workload}
            measure = partial(over_http, self.bundle, self.run.provider, workers, workload, self.options.seconds)
            yield from self.run.step(line, measure)


if __name__ == "__main__":
    sys.exit(main())
