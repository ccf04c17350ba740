"""Measures the service beside others, alternating on one machine: python -m tests.benchmarks, or make bench."""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from importlib.metadata import distributions
from importlib.util import find_spec
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from statistics import mean, median
from typing import Any, NamedTuple

from rich.console import Console
from rich.progress import track
from rich.table import Table

from models.bundle import Bundle, read_bundle
from models.classification import Classify
from models.errors import BertheadsError
from models.row import Row
from models.session import Session
from service.cores import usable_cores
from service.settings import STARTER
from tests.benchmarks.contenders import Raw, Server, started
from tests.benchmarks.load import BenchmarkError

OURS = "bertheads"
TEXTS = Path(__file__).parent / "texts.jsonl"
INSTRUCTIONS = {"AVX2": "avx2", "AVX-512": "avx512f", "AVX-512 VNNI": "avx512_vnni", "AVX VNNI": "avx_vnni"}
LIBRARIES = {"onnxruntime", "onnxruntime-gpu", "numpy", "tokenizers", "fastapi", "uvicorn", "torch"}
COLUMNS = {"rate": "req/s", "p50": "p50 ms", "p95": "p95 ms", "p99": "p99 ms", "cpu_ms": "CPU ms/req"}
COLUMNS |= {"rows_a_batch": "rows/batch", "padding": "padding", "ratio": f"{OURS} ÷ it"}

LOAD = ("contender", "connections")
Run = dict[str, Any]
"""What was measured: by the names in LOAD whom and how, and the figures."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the exit status."""
    options = parse(arguments)
    try:
        workload = prepare(options.bundle, options.texts)
        described = describe(workload)
        runs = measure(workload, options)
    except BertheadsError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    report = described | {"medians": medians(runs), "runs": runs}
    show(report)
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m tests.benchmarks", description=__doc__)
    add = parser.add_argument
    add("--bundle", type=Path, default=STARTER, metavar="DIR", help="what is served: its first classify head")
    add("--checkpoint", type=Path, metavar="DIR", help="what the bundle was exported from, for the naive service")
    add("--texts", type=Path, default=TEXTS, metavar="FILE", help='JSON lines with {"text"}; default: 51 short ones')
    add("--connections", type=int, nargs="+", default=[1, 8, 32], metavar="N", help="default: 1 8 32")
    add("--seconds", type=float, default=5.0, help="of each measurement; default: 5")
    add("--rounds", type=int, default=3, help="of A B C; default: 3")
    add("--json", type=Path, metavar="OUT", help="file for the whole report")
    options = parser.parse_args(arguments)
    if min(*options.connections, options.rounds, options.seconds) <= 0:
        parser.error("--connections, --rounds and --seconds must be above 0")
    if options.json and not options.json.parent.is_dir():
        parser.error(f"--json is {options.json}, whose directory does not exist; make it first")
    return options


class Workload(NamedTuple):
    """The same texts as rows for ONNX Runtime and as bodies for services."""

    bundle: Bundle
    session: Session
    head: str
    rows: list[Row]
    bodies: list[bytes]


def prepare(directory: Path, texts: Path) -> Workload:
    """Read bundle and texts, and tokenise them for the first classify head; raise BertheadsError."""
    bundle = read_bundle(directory.resolve())
    heads = [name for name, head in bundle.manifest.heads.items() if head.task == "classify"]
    if not heads:
        raise BenchmarkError(f"{directory} has no classify head, expected one; pass another --bundle")
    try:
        inputs = [str(json.loads(line)["text"]) for line in texts.read_text(encoding="utf8").splitlines()]
        if not inputs:
            raise ValueError("it is empty")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BenchmarkError(f'{texts} is not JSON lines with {{"text"}} ({error!r}); pass another --texts') from None
    task = Classify(bundle.tokenizer, bundle.manifest.heads[heads[0]].spec, bundle.manifest.encoder.max_length)
    rows = [task.encode(text, task.parse_parameters({})).rows[0] for text in inputs]
    return Workload(bundle, Session(bundle), heads[0], rows, [json.dumps({"inputs": text}).encode() for text in inputs])


def measure(workload: Workload, options: argparse.Namespace) -> list[Run]:
    """Start what there is to measure, and measure it; the naive service needs a checkpoint, and torch."""
    bundle, session, head, rows, bodies = workload
    with ExitStack() as stack:
        loader = stack.enter_context(ProcessPoolExecutor(1, get_context("spawn")))
        command = ["service", "--bundle", str(bundle.directory), "--port", "0"]
        ours = started(command, f"/classify/{head}", bodies, loader)
        contenders: dict[str, Server | Raw] = {OURS: stack.enter_context(ours)}
        if options.checkpoint and find_spec("torch"):
            naive = started(["tests.benchmarks.naive", str(options.checkpoint.resolve())], "/classify", bodies, loader)
            contenders["naive"] = stack.enter_context(naive)
        contenders["raw"] = Raw(session, [(head, row) for row in rows])
        return alternate(contenders, options)


def alternate(contenders: dict[str, Server | Raw], options: argparse.Namespace) -> list[Run]:
    """Measure every contender under every load in turn, `rounds` times, after a run that does not count."""
    for contender in contenders.values():
        contender.run(max(options.connections), min(1.0, options.seconds))
    turns = list(product(options.connections, range(options.rounds), contenders))
    shown = track(turns, "measuring", console=Console(stderr=True), transient=True)
    return [
        {"contender": name, "connections": connections} | contenders[name].run(connections, options.seconds)
        for connections, _, name in shown
    ]


def medians(runs: list[Run]) -> list[Run]:
    """Return one run for each contender and load; `ratio` is the median over the rounds of our rate to its."""
    groups: dict[tuple[str, int], list[Run]] = {}
    for run in runs:
        groups.setdefault((run["contender"], run["connections"]), []).append(run)
    found = []
    for (contender, connections), group in groups.items():
        figures = {name: median(run[name] for run in group) for name in group[0] if name not in LOAD}
        pairs = zip(groups[OURS, connections], group, strict=True)
        figures["ratio"] = median(ours["rate"] / other["rate"] for ours, other in pairs)
        found.append({"contender": contender, "connections": connections} | figures)
    return found


def describe(workload: Workload) -> dict[str, Any]:
    """Return what the figures hold for: bundle, workload, processor by /proc/cpuinfo, versions."""
    manifest, lengths = workload.bundle.manifest, [len(row.input_ids) for row in workload.rows]
    lines = Path("/proc/cpuinfo").read_text().partition("\n\n")[0].splitlines()
    cpu = {key.strip(): value.split() for key, _, value in (line.partition(":") for line in lines)}
    return {
        "bundle": f"{manifest.name} {manifest.version}, {workload.session.precision}, head {workload.head}",
        "texts": {"number": len(lengths), "mean_tokens": round(mean(lengths), 1), "most_tokens": max(lengths)},
        "cpu": " ".join(cpu.get("model name", ["unknown"])),
        "instructions": {name: flag in cpu.get("flags", []) for name, flag in INSTRUCTIONS.items()},
        "usable_cores": usable_cores(),
        "load_average": os.getloadavg()[0],
        "versions": {d.name: d.version for d in distributions() if d.name in LIBRARIES},
    }


def show(report: dict[str, Any]) -> None:
    """Print the medians as a table, above it what they hold for."""
    table = Table("connections", "", *COLUMNS.values())
    for run in report["medians"]:
        cells = [f"{run[name]:.2f}" if name in run else "" for name in COLUMNS]
        table.add_row(str(run["connections"]), run["contender"], *cells)
    console = Console()
    console.width = max(console.width, 110)
    console.print({name: value for name, value in report.items() if name not in ("medians", "runs")})
    console.print(table)
    if not any(run["contender"] == "naive" for run in report["runs"]):
        console.print("naive: skipped, it needs --checkpoint and torch")


if __name__ == "__main__":
    sys.exit(main())
