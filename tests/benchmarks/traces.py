"""What traces cost: python -m tests.benchmarks.traces.

Servers answer the texts of `short` in turn, in many short rounds, since machines change their speed: one with traces
off, and those of MODES. Printed is the CPU time that a request costs each, and by how much it is more than `off`.
`--before DIR` adds the service of another checkout, for what `off` costs against a version without traces.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from multiprocessing import get_context
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from models.bundle import read_bundle
from models.errors import BertheadsError
from service.settings import STARTER
from tests.benchmarks.contenders import OURS, ROOT, Server, Service, cpu_seconds, started
from tests.benchmarks.load import Call, drive
from tests.benchmarks.workloads import TEXTS, Workloads, read_texts
from tests.service.collector import Collector, collecting

OFF, BEFORE = "off", "before"
MODES = {
    "unsampled": ({"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0"}, ""),
    "unsampled by its client": ({}, "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00\r\n"),
    "sampled": ({}, ""),
}
"""Variables of the service beside its collector's address, and a header of the requests."""
FULL = {"OTEL_BSP_SCHEDULE_DELAY": "600000"}
"""Spans leave in full batches alone, as they do under load: what a round leaves over, the next one sends."""
SETTLE_SECONDS = 0.1
"""After each load, for a batch of spans that is being sent."""
START = (
    "import os, runpy, sys; os.environ.update({}); sys.path[:0] = [{!r}];"
    "runpy.run_module('service', None, '__main__', True)"
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the exit status."""
    parser = argparse.ArgumentParser("python -m tests.benchmarks.traces", description=__doc__)
    parser.add_argument("--bundle", type=Path, default=STARTER, metavar="DIR")
    parser.add_argument("--before", type=Path, metavar="DIR", help="a checkout of another version")
    parser.add_argument("--connections", type=int, default=8, metavar="N")
    parser.add_argument("--seconds", type=float, default=1.0, help="of each measurement; default: 1")
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args(arguments)
    try:
        sys.stdout.write(json.dumps(measure(options), indent=2) + "\n")
    except BertheadsError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Return the summary of all rounds."""
    bundle = read_bundle(options.bundle.resolve())
    question, *_ = questions = Workloads(bundle, read_texts(TEXTS)).make("short")
    calls = [each.call for each in questions]
    with ExitStack() as stack:
        collector = stack.enter_context(collecting())
        loader = stack.enter_context(ProcessPoolExecutor(1, get_context("spawn")))
        servers = {
            name: stack.enter_context(started(service, question, loader, bundle.directory))
            for name, service in contenders(bundle.directory, collector.url, options.before).items()
        }
        rounds = []
        for number in range(options.rounds):
            first = number % len(servers)
            order = [*servers][first:] + [*servers][:first]  # none is always the first
            found = {name: cost(servers[name], name, calls, collector, options) for name in order}
            rounds.append({name: found[name] for name in servers})
    return summary(rounds)


def contenders(bundle: Path, collector: str, before: Path | None) -> dict[str, Service]:
    """Return the services, by mode."""
    on = FULL | {"OTEL_EXPORTER_OTLP_ENDPOINT": collector}
    found = {OFF: _service(bundle, {}, ROOT)}
    found |= {name: _service(bundle, on | variables, ROOT) for name, (variables, _) in MODES.items()}
    return found | ({BEFORE: _service(bundle, {}, before.resolve())} if before else {})


def _service(bundle: Path, variables: dict[str, str], root: Path) -> Service:
    program = ["-c", START.format(variables, str(root)), "--bundle", str(bundle), "--port"]
    return Service(OURS, lambda port: [*program, str(port)])


def cost(
    server: Server, mode: str, calls: Sequence[Call], collector: Collector, options: argparse.Namespace
) -> dict[str, float]:
    """Return milliseconds of CPU time and spans, both per request."""
    header = MODES[mode][1] if mode in MODES else ""
    received, cpu = len(collector.spans), cpu_seconds(server.pid)
    work = server.loader.submit(drive, server.address, calls, options.connections, options.seconds, header)
    count = len(work.result().answers)
    time.sleep(SETTLE_SECONDS)
    milliseconds = 1000 * (cpu_seconds(server.pid) - cpu) / count
    return {"cpu_ms": milliseconds, "spans": (len(collector.spans) - received) / count}


def summary(rounds: Sequence[dict[str, dict[str, float]]]) -> dict[str, Any]:
    """Return of each mode its medians, and the quartiles of what it costs more than `off`, as a share."""
    found: dict[str, Any] = {}
    for name in rounds[0]:
        more = [each[name]["cpu_ms"] / each[OFF]["cpu_ms"] - 1 for each in rounds]
        figures = {key: round(median(each[name][key] for each in rounds), 3) for key in ("cpu_ms", "spans")}
        found[name] = figures | {"more": [round(share, 4) for share in quantiles([*more, *more], n=4)]}
    return found


if __name__ == "__main__":
    sys.exit(main())
