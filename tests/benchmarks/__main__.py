"""Compares the service with others, in turn on one machine: python -m tests.benchmarks, or make bench."""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from importlib.metadata import distributions
from importlib.util import find_spec
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from statistics import mean, median
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

from models import onnx_runtime
from models.bundle import Bundle, read_bundle
from models.cgroup import usable_cores
from models.errors import BertheadsError
from models.session import Session
from service.settings import STARTER
from tests.benchmarks.contenders import OURS, Raw, Server, Service, paused, services, started
from tests.benchmarks.load import BenchmarkError
from tests.benchmarks.overload import overload
from tests.benchmarks.peaks import needed_operations, product_peak
from tests.benchmarks.workloads import TEXTS, Question, Workloads, read_texts
from tests.kernels.sessions import LEFT_OUT, opening_with

WORKLOADS = ("short", "mixed", "qa", "heads")
FOR_OTHERS = ("short", "mixed")
"""Workloads for services that only classify."""
RAW = ("raw", "raw-onnx")
"""Sessions in a loop; a name with -onnx is without our kernels."""
INSTRUCTIONS = {"AVX2": "avx2", "AVX-512": "avx512f", "AVX-512 VNNI": "avx512_vnni", "AVX VNNI": "avx_vnni"}
LIBRARIES = {"onnxruntime", "onnxruntime-gpu", "numpy", "tokenizers", "fastapi", "uvicorn", "torch"}
COLUMNS = {"rate": "req/s", "p50": "p50 ms", "p95": "p95 ms", "p99": "p99 ms", "cpu_ms": "CPU ms/req"}
COLUMNS |= {"memory_mb": "MB", "rows_a_batch": "rows/batch", "padding": "padding", "peak_share": "of peak"}
COLUMNS |= {"ratio": f"{OURS} ÷ it"}

LOAD = ("workload", "contender", "connections")
Run = dict[str, Any]
"""One measurement: workload, contender and connections (the names in LOAD), and its figures."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the exit status."""
    options = parse(arguments)
    try:
        bundle = read_bundle(options.bundle.resolve())
        asked = Workloads(bundle, read_texts(options.texts))
        workloads = {name: asked.make(name) for name in options.workloads}
        report = describe(bundle, workloads) | measure(bundle, workloads, options)
    except BertheadsError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    show(report)
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m tests.benchmarks", description=__doc__)
    add = parser.add_argument
    add("--bundle", type=Path, default=STARTER, metavar="DIR", help="what is served: the first head of each task")
    add("--texts", type=Path, default=TEXTS, metavar="FILE", help='JSON lines with {"text"}; default: 51 short ones')
    add("--workloads", nargs="+", default=["short"], choices=WORKLOADS, help="default: short")
    add("--connections", type=int, nargs="+", default=[1, 8, 32], metavar="N", help="default: 1 8 32")
    add("--seconds", type=float, default=5.0, help="of each measurement; default: 5")
    add("--rounds", type=int, default=3, help="of A B C; default: 3")
    add("--only", nargs="+", metavar="NAME", help=f"contenders beside {OURS}; default: all that are installed")
    add("--overload", action="store_true", help=f"also offer {OURS} up to five times what it can serve")
    add("--json", type=Path, metavar="OUT", help="file for the whole report")
    options = parser.parse_args(arguments)
    if min(*options.connections, options.rounds, options.seconds) <= 0:
        parser.error("--connections, --rounds and --seconds must be above 0")
    if options.json and not options.json.parent.is_dir():
        parser.error(f"--json is {options.json}, whose directory does not exist; make it first")
    return options


def measure(bundle: Bundle, workloads: dict[str, list[Question]], options: argparse.Namespace) -> dict[str, Any]:
    """Start what there is to measure, check that all answer alike, and measure it in turn."""
    int8, fp32 = product_peak("int8"), product_peak("fp32")
    with ExitStack() as stack:
        loader = stack.enter_context(ProcessPoolExecutor(1, get_context("spawn")))
        checkpoint = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        question = next(iter(workloads.values()))[0]
        wanted, skipped = choose(services(bundle.directory, checkpoint), workloads, options.only)
        if len(wanted) > 1:
            write_classifier(bundle, checkpoint)
        contenders: dict[str, Server | Raw] = {
            service.name: stack.enter_context(started(service, question, loader, bundle.directory))
            for service in wanted
        }
        check_answers([one for one in contenders.values() if isinstance(one, Server)], workloads)
        for name in RAW:
            if not options.only or name in options.only:
                with opening_with(LEFT_OUT if name.endswith("-onnx") else onnx_runtime.KERNELS):
                    contenders[name] = Raw(Session(bundle))
        runs = [run for name, asked in workloads.items() for run in alternate(name, asked, contenders, options)]
        for run in runs:
            operations = mean(
                sum(needed_operations(bundle, row) for row in each.rows) for each in workloads[run["workload"]]
            )
            run["peak_share"] = run["rate"] * operations / int8
        report = {"int8_peak_gops": int8 / 1e9, "fp32_peak_gflops": fp32 / 1e9, "skipped": skipped}
        report |= {"medians": medians(runs), "runs": runs}
        if options.overload:
            ours = contenders[OURS]
            assert isinstance(ours, Server)
            asked = next(iter(workloads.values()))
            with paused(others(ours, contenders)):
                report["overload"] = overload(ours, asked, options.seconds, options.rounds)
        return report


def choose(
    known: list[Service], workloads: dict[str, list[Question]], only: list[str] | None
) -> tuple[list[Service], dict[str, str]]:
    """Return the services to start, ours first, and why others are not."""
    names = [*(service.name for service in known[1:]), *RAW]
    for name in only or []:
        if name not in names:
            raise BenchmarkError(f"there is no contender {name!r}; there are {', '.join(names)}")
    wanted, skipped = known[:1], dict[str, str]()
    for service in known[1:]:
        if only is not None and service.name not in only:
            continue
        if not set(workloads) & set(FOR_OTHERS):
            skipped[service.name] = "it only classifies"
        elif service.missing:
            skipped[service.name] = "make peers installs it"
        elif not find_spec("torch"):
            skipped[service.name] = "its checkpoint is written with torch"
        elif service.name == "naive" and not find_spec("transformers"):
            skipped[service.name] = "it is a pipeline of transformers"
        else:
            wanted.append(service)
    return wanted, skipped


def write_classifier(bundle: Bundle, directory: Path) -> None:
    """Write the classify head of a bundle and its encoder as transformers names them, in fp32."""
    from models.checkpoint import Checkpoint, write_checkpoint  # needs torch, as do the contenders that read it
    from training.run.start_from import unpack

    whole = unpack(bundle)
    name = next(name for name, head in whole.heads.items() if head.spec.task == "classify")
    alone = Checkpoint(whole.config, whole.encoder, whole.tokenizer, {name: whole.heads[name]})
    write_checkpoint(alone, directory)


def check_answers(servers: Sequence[Server], workloads: dict[str, list[Question]]) -> None:
    """Raise BenchmarkError unless all agree on nearly every text: int8 may change an answer that is a close call."""
    asked = workloads.get("short", [])
    expected = [servers[0].label(question) for question in asked]
    for server in servers[1:]:
        differ = sum(server.label(question) != label for question, label in zip(asked, expected, strict=True))
        if differ > len(asked) / 20:
            raise BenchmarkError(
                f"{server.service.name} answers {differ} of {len(asked)} texts differently, expected the same network; "
                "see how it reads the checkpoint"
            )


def alternate(
    workload: str, questions: Sequence[Question], contenders: dict[str, Server | Raw], options: argparse.Namespace
) -> list[Run]:
    """Measure every contender under every load in turn, `rounds` times, after a run that does not count."""
    asked = {name: one for name, one in contenders.items() if can(one, workload)}

    def run(name: str, connections: int, seconds: float) -> Run:
        one = asked[name]
        with paused(others(one, contenders)):
            if isinstance(one, Raw):
                return dict(one.run(questions, connections, seconds))
            return dict(one.run([one.service.call(question) for question in questions], connections, seconds))

    for name in asked:
        run(name, max(options.connections), min(1.0, options.seconds))
    turns = list(product(options.connections, range(options.rounds), asked))
    shown = track(turns, f"measuring {workload}", console=Console(stderr=True), transient=True)
    return [
        {"workload": workload, "contender": name, "connections": connections} | run(name, connections, options.seconds)
        for connections, _, name in shown
    ]


def others(one: Server | Raw, contenders: dict[str, Server | Raw]) -> list[Server]:
    """The contenders that are paused while `one` is measured."""
    return [other for other in contenders.values() if isinstance(other, Server) and other is not one]


def can(contender: Server | Raw, workload: str) -> bool:
    return isinstance(contender, Raw) or contender.service.name == OURS or workload in FOR_OTHERS


def medians(runs: list[Run]) -> list[Run]:
    """Return one run for each contender and load; `ratio` is the median over the rounds of our rate to its."""
    groups: dict[tuple[str, str, int], list[Run]] = {}
    for run in runs:
        groups.setdefault((run["workload"], run["contender"], run["connections"]), []).append(run)
    found = []
    for (workload, contender, connections), group in groups.items():
        figures = {name: median(run[name] for run in group) for name in group[0] if name not in LOAD}
        pairs = zip(groups[workload, OURS, connections], group, strict=True)
        figures["ratio"] = median(ours["rate"] / other["rate"] for ours, other in pairs)
        found.append({"workload": workload, "contender": contender, "connections": connections} | figures)
    return found


def describe(bundle: Bundle, workloads: dict[str, list[Question]]) -> dict[str, Any]:
    """Return the conditions of the figures: bundle, workloads, processor by /proc/cpuinfo, versions."""
    lines = Path("/proc/cpuinfo").read_text().partition("\n\n")[0].splitlines()
    cpu = {key.strip(): value.split() for key, _, value in (line.partition(":") for line in lines)}
    return {
        "bundle": f"{bundle.manifest.name} {bundle.manifest.version}",
        "mean_tokens": {name: round(mean(each.tokens for each in asked), 1) for name, asked in workloads.items()},
        "cpu": " ".join(cpu.get("model name", ["unknown"])),
        "instructions": {name: flag in cpu.get("flags", []) for name, flag in INSTRUCTIONS.items()},
        "usable_cores": usable_cores(),
        "load_average": os.getloadavg()[0],
        "versions": {d.name: d.version for d in distributions() if d.name in LIBRARIES},
    }


def show(report: dict[str, Any]) -> None:
    """Print the conditions of the measurement, then the medians as a table."""
    console = Console()
    console.width = max(console.width, 130)
    console.print({name: value for name, value in report.items() if name not in ("medians", "runs", "overload")})
    table = Table("workload", "connections", "", *COLUMNS.values())
    for run in report["medians"]:
        cells = [f"{run[name]:.2f}" if name in run else "" for name in COLUMNS]
        table.add_row(run["workload"], str(run["connections"]), run["contender"], *cells)
    console.print(table)
    if "overload" in report:
        console.print(overload_table(report["overload"]))


def overload_table(lines: list[dict[str, Any]]) -> Table:
    names = ["offered", "goodput", "p99_at_peak", "deadline_ms", "p99", "p99_long", "refusal_p50", "refusal_p99"]
    table = Table("of the peak", *names, "statuses")
    for rate in sorted({line["rate"] for line in lines}):
        group = [line for line in lines if line["rate"] == rate]
        cells = [f"{median(line[name] for line in group):.2f}" for name in names]
        table.add_row(str(rate), *cells, str(group[-1]["statuses"]))
    return table


if __name__ == "__main__":
    sys.exit(main())
