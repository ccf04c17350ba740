"""The command `evaluate`: prints the figures of a head beside chance and its report, and writes both to files.

python -m training evaluate (BUNDLE... | CHECKPOINT... | URL) --head NAME --data FILE... [--limit N]
                            [--json OUT] [--report DIR]
"""

import argparse
import json
import shlex
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from training.errors import EvaluationError
from training.evaluation.evaluate import open_predictor
from training.evaluation.metrics import Scores
from training.evaluation.report import REPORT, WRONG, read_report, report_of, write_report
from training.evaluation.report_figures import Report
from training.evaluation.report_text import NUMBERS
from training.run.atomic_files import check_room, hash_of
from training.run.option_types import positive
from training.text.data_files import DATA_HELP, add_data_options, read_files


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `evaluate_command` reads."""
    parser.add_argument(
        "sources",
        nargs="+",
        metavar="BUNDLE|CHECKPOINT|URL",
        help="what to measure; http://HOST:PORT for a service (its key comes from BERTHEADS_API_KEY); the scores of "
        "several bundles or checkpoints are averaged",
    )
    parser.add_argument("--head", required=True, metavar="NAME", help="head to measure")
    parser.add_argument("--data", required=True, nargs="+", action="extend", type=Path, metavar="FILE", help=DATA_HELP)
    add_data_options(parser)
    parser.add_argument("--limit", type=positive, metavar="N", help="only the first N examples of each file")
    parser.add_argument("--precision", choices=("int8", "fp16", "fp32"), help="of a bundle; default: the served one")
    parser.add_argument("--tokenizer", type=Path, metavar="DIR", help="for fill-mask at a URL: the served bundle")
    parser.add_argument("--report", type=Path, metavar="DIR", help="write a report with pictures and wrong answers")
    parser.add_argument("--json", type=Path, metavar="OUT", help="also write figures, files and command as JSON")


def evaluate_command(arguments: argparse.Namespace) -> None:
    """Evaluate as the command line says: print figures and report, and write the files that it names."""
    if arguments.json:
        check_report(arguments.json)
    if arguments.report:
        check_directory(arguments.report)
    predictor = open_predictor(arguments.sources, arguments.precision, arguments.tokenizer)
    spec = predictor.head(arguments.head)
    read = read_files(arguments.data, spec.task, arguments.columns, arguments.skip_broken, arguments.limit)
    source = " + ".join(arguments.sources)
    started = time.perf_counter()
    every = [one for examples in read.values() for one in examples]
    report = report_of(predictor, arguments.head, every, progress=True)
    seconds = time.perf_counter() - started
    Console().print(table(f"{source} · {arguments.head} ({spec.task})", report.scores))
    sys.stdout.write("".join(f"{line}\n" for line in ["", *report.lines()]))
    if arguments.report:
        write_report(report, arguments.report)
    sys.stdout.write(f"\n{last_line(arguments, report)}\n")
    if arguments.json:
        values = {
            "source": source,
            "head": arguments.head,
            "task": spec.task,
            "files": [_describe(path, len(examples)) for path, examples in read.items()],
            "limit": arguments.limit,
            "scores": report.scores,
            "seconds": round(seconds, 3),
            "command": shlex.join(["python", "-m", "training", *sys.argv[1:]]),
        }
        arguments.json.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf8")


def last_line(arguments: argparse.Namespace, report: Report) -> str:
    """Return the most important figure, where the report is, and how to look at the wrong answers."""
    figure = f"{arguments.head}: {report.chief or 'measured'} on {report.scores.get('examples', 0):,.0f} examples"
    if arguments.report and not report.wrong:
        return f"{figure}, all of them right; report: {arguments.report}"
    if arguments.report:
        wrong = shlex.quote(str(arguments.report / WRONG))
        return f"{figure}; report: {arguments.report}; next, the most confident wrong answers: head -n 5 {wrong}"
    again = shlex.join(["python", "-m", "training", *sys.argv[1:], "--report", f"report-{arguments.head}"])
    kind = "a report with all wrong answers" if report.wrong else "a report with pictures"
    return f"{figure}; next, {kind}: {again}"


def check_report(path: Path) -> None:
    """Raise EvaluationError for an existing file that evaluate did not write: it would be lost."""
    if not path.exists():
        check_room(path, "--json")
        return
    try:
        found = json.loads(path.read_text(encoding="utf8"))
    except ValueError:
        found = None
    if not isinstance(found, dict) or not {"source", "head", "scores"} <= found.keys():
        raise EvaluationError(f"--json {path} exists and was not written by evaluate; name another file")


def check_directory(path: Path) -> None:
    """Raise EvaluationError for a directory with files, unless it holds a report."""
    if path.exists() and not path.is_dir():
        raise EvaluationError(f"--report {path} is a file, expected a directory; name another one")
    if path.is_dir() and any(path.iterdir()) and read_report(path) is None:
        raise EvaluationError(f"--report {path} has files but no {REPORT}; name another directory")
    check_room(path / REPORT, "--report")


def _describe(path: Path, examples: int) -> dict[str, object]:
    return {"file": str(path), "sha256": hash_of(path), "examples": examples}


COUNTS = {"examples", "spans", "passages", "masked_tokens"}


def table(title: str, scores: Scores) -> Table:
    """Return the figures as a table for people: shares in percent, with chance beside them."""
    shown = Table(title=title, title_justify="left")
    shown.add_column("figure")
    shown.add_column("value", justify="right")
    shown.add_column("chance", justify="right")
    for name, value in scores.items():
        if not name.endswith("_chance"):
            chance = scores.get(f"{name}_chance")
            shown.add_row(name.replace("_", " "), _format(name, value), "" if chance is None else _format(name, chance))
    return shown


def _format(name: str, value: float) -> str:
    if name in COUNTS or name.endswith("questions"):
        return f"{value:,.0f}"
    if name.removesuffix("_chance") in NUMBERS:
        return f"{value:.4f}"
    return f"{value:.4f} nats" if name == "loss" else f"{100 * value:.2f} %"
