"""Rows a second of BERT-base and BERT-large on this machine's GPU, and their errors; without the service and with it.

    python -m tests.benchmarks.gpu.serving [--networks base large] [--lengths N ...] [--workers N ...] [--json OUT]

Random weights, heads of classify and qa: what is measured is arithmetic. For each network and length, in fp16: the
largest difference of logits to fp32 on CPU, whether a row in a batch answers as alone, rows a second in batches of the
best size, and their share of the peak of one large product; then requests a second of the service for each number of
workers. Prints a line each; run it where there is a GPU, and put device and figures into tests/benchmarks/README.md.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from models.bundle import Bundle
from models.config import EncoderConfig
from models.errors import BertheadsError
from models.row import Row
from models.runtime import Precision, Provider
from models.session import PREFERENCE, Session
from models.task import HeadSpec
from models.tokenizer import Tokenizer
from service.settings import STARTER
from tests.benchmarks.contenders import our_service, started
from tests.benchmarks.peaks import needed_operations, product_peak
from tests.benchmarks.workloads import TEXTS, Workloads, read_texts, variants
from tests.models import bundles
from training.exporting.export import ExportOptions, export

NETWORKS = {"tiny": (2, 64, 1), "base": (12, 768, 12), "large": (24, 1024, 16)}
"""Layers, width, attention heads."""
HEADS = {"classify": HeadSpec("classify", ["a", "b"]), "qa": HeadSpec("qa", [])}
LENGTHS = (16, 64, 128, 384)
BATCH_TOKENS = (2_048, 8_192, 32_768)
CONNECTIONS = 128

Figures = dict[str, Any]
Item = tuple[str, Row]


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.gpu.serving", description=__doc__)
    add = parser.add_argument
    add("--networks", nargs="+", choices=NETWORKS, default=["base", "large"])
    add("--lengths", nargs="+", type=int, default=LENGTHS, metavar="N", help="tokens of a row")
    add("--workers", nargs="+", type=int, default=[1, 2, 4], metavar="N", help="processes of the service")
    add("--seconds", type=float, default=5.0, help="of each measurement; default: 5")
    add("--provider", choices=["cpu", "cuda"], default="cuda", help="cpu only to try this program")
    add("--json", type=Path, metavar="OUT")
    options = parser.parse_args(arguments)
    lines: list[Figures] = []
    try:
        for line in measure(options):
            lines.append(line)
            sys.stdout.write(json.dumps(line) + "\n")
            sys.stdout.flush()
    except BertheadsError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    if options.json:
        options.json.write_text(json.dumps(lines, indent=2) + "\n")
    return 0


def measure(options: argparse.Namespace) -> Iterator[Figures]:
    """Yield the device and its peak, then the figures of each network."""
    provider: Provider = options.provider
    fast: Precision = PREFERENCE[provider][0]
    peak = product_peak(fast, provider)
    yield {"device": device(provider), "precision": fast, "peak_gops": peak / 1e9}
    for network in options.networks:
        with tempfile.TemporaryDirectory() as place:
            bundle = random_bundle(network, Path(place) / network, fast)
            session = Session(bundle, provider=provider, precision=fast)
            exact = Session(bundle, precision="fp32", threads=0)
            for length in options.lengths:
                for head in HEADS:
                    yield {"network": network, "length": length, "head": head} | engine(
                        bundle, session, exact, random_row(head, length), options.seconds, peak
                    )
            del session, exact  # the service wants the memory
            for workers in options.workers:
                yield {"network": network, "workers": workers} | over_http(bundle, provider, workers, options.seconds)


def device(provider: Provider) -> str:
    if provider == "cpu":
        return "CPU"
    query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    return subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip().splitlines()[0]


def random_bundle(network: str, directory: Path, fast: Precision) -> Bundle:
    """Export a network of random weights over the starter's vocabulary, in fp32 too."""
    layers, width, heads = NETWORKS[network]
    tokenizer = Tokenizer.read(STARTER)
    config = EncoderConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * width,
    )
    options = ExportOptions(name=network, precisions=(fast, "fp32"), budget=bundles.ANY_LOSS)
    return export(bundles.checkpoint(tokenizer, HEADS, config), directory, options)


def engine(bundle: Bundle, session: Session, exact: Session, item: Item, seconds: float, peak: float) -> Figures:
    """Return errors, and the rate of the best size of batches, of rows that are tokenised already."""
    head, row = item
    length = len(row.input_ids)
    beside = [random_row(name, max(3, length // part)) for part in (1, 2, 3) for name in HEADS]
    alone, among, wanted = (
        run([item, *others])[0] for run, others in ((session.run, []), (session.run, beside), (exact.run, []))
    )
    rates = {
        rows: rate(session, [(head, each) for each in variants(row, rows)], seconds / len(BATCH_TOKENS))
        for rows in {max(1, tokens // length) for tokens in BATCH_TOKENS}
    }
    rows = max(rates, key=rates.__getitem__)
    return {
        "difference_to_fp32": float(np.abs(alone - wanted).max()),
        "largest_logit": float(np.abs(wanted).max()),
        "difference_in_a_batch": float(np.abs(alone - among).max()),
        "rows_a_batch": rows,
        "rows_per_s": rates[rows],
        "peak_share": rates[rows] * needed_operations(bundle, row) / peak,
    }


def rate(session: Session, items: list[Item], seconds: float) -> float:
    """Rows a second: the median over batches, after two that do not count."""
    taken: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(taken) < 5:
        began = time.perf_counter()
        session.run(items)
        taken.append(time.perf_counter() - began)
    return len(items) / median(taken[2:])


def random_row(head: str, length: int) -> Item:
    """Draw a row whose positions are those that the head reads: [CLS], or all."""
    ids = np.random.default_rng(length).integers(1000, 20_000, length).tolist()
    return head, Row(ids, [0] * length, [0] if head == "classify" else list(range(length)))


def over_http(bundle: Bundle, provider: Provider, workers: int, seconds: float) -> Figures:
    """Return what the closed loop gives for texts of 8 to 400 tokens."""
    questions = Workloads(bundle, read_texts(TEXTS)).make("mixed")
    service = our_service(bundle.directory, "--provider", provider, "--workers", str(workers))
    with (
        ProcessPoolExecutor(1, get_context("spawn")) as loader,
        started(service, questions[0], loader, bundle.directory) as server,
    ):
        calls = [question.call for question in questions]
        server.run(calls, CONNECTIONS, 1.0)
        found = server.run(calls, CONNECTIONS, seconds)
    return {"connections": CONNECTIONS} | {name: found[name] for name in ("rate", "p50", "p99", "cpu_ms")}


if __name__ == "__main__":
    sys.exit(main())
