"""The command `bertheads-score`: files of any size in, a folder of answers out.

    bertheads-score FILES... --bundle DIR [--head NAME] --out DIR [--columns text=body] [--set top_k=3]

Finished parts are kept, so the same command continues after an interruption. A broken row gets an error as its answer.
"""

import argparse
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any, get_args

from models.cgroup import usable_cores
from models.command_line import Parser
from models.onnx_runtime import Precision, Provider
from models.predictor import Predictor
from training.errors import DataError, TrainingError
from training.run.exit_status import run_command
from training.run.interruption import Interrupted
from training.run.option_types import positive
from training.scoring.folder import NOTE, claimed, write_note
from training.scoring.input_rows import FIELDS
from training.scoring.job import FORMS, Job
from training.scoring.local import run
from training.scoring.outcome import Outcome, read_outcome
from training.scoring.preparation import check_files, check_parameters, job_of
from training.scoring.report import Progress, finished
from training.scoring.scorer import Summary
from training.text.data_files import parse_columns
from training.text.file_formats import KNOWN
from training.text.source_files import Sources


def main(arguments: Sequence[str] | None = None) -> None:
    """Score as the command line says; if it fails, exit with status 1 and one sentence."""
    run_command(build_parser, sys.argv[1:] if arguments is None else arguments)


def build_parser() -> Parser:
    parser = Parser(
        prog="bertheads-score",
        description="Answer every row of data files of any size.",
        epilog="example:\n  bertheads-score texts.csv --bundle tickets --out answers",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_version()
    add_arguments(parser)
    parser.set_defaults(command=score_command)
    return parser


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `score_command` reads."""
    add = parser.add_argument
    add("files", nargs="+", type=Path, metavar="FILE", help=f"data with or without labels, or folders of it: {KNOWN}")
    add("--bundle", type=Path, required=True, metavar="DIR", help="bundle whose head answers")
    add("--head", metavar="NAME", help="head that answers; needed if the bundle has several")
    add("--out", type=Path, required=True, metavar="DIR", help="folder of answers; the same command continues it")
    names = "columns of the fields, such as text=body or id=number; columns without names are numbered from 0"
    add("--columns", type=parse_columns, default={}, metavar="FIELD=COLUMN,…", help=names)
    add("--keep", type=_names, default=(), metavar="COLUMN,…", help="columns to copy to the answers, as text")
    add("--set", action="append", default=[], metavar="KEY=VALUE", help="parameter, such as top_k=3; repeatable")
    routes = f"how to ask the head: {', '.join(FIELDS)}; default: its task"
    add("--route", choices=tuple(FIELDS), metavar="ROUTE", help=routes)
    add("--format", choices=FORMS, default=FORMS[0], help="format of the answers; default: parquet")
    add("--processes", type=positive, default=usable_cores(), metavar="N", help="processes; default: one per core")
    add("--precision", choices=get_args(Precision), help="precision; default: the one that is served")
    add("--provider", choices=get_args(Provider), default="cpu", help="hardware; default: cpu")
    add("--ray", nargs="?", const="", metavar="ADDRESS", help="score with Ray, here or on the cluster at ADDRESS")


def _names(text: str) -> tuple[str, ...]:
    return tuple(parse for part in text.split(",") if (parse := part.strip()))


def score_command(arguments: argparse.Namespace) -> None:
    """Score as the command line says, and print the outcome in one line."""
    try:
        predictor = Predictor(arguments.bundle, precision=arguments.precision, provider=arguments.provider)
        job = job_of(arguments, predictor)
        check_parameters(job, predictor)
        check_files(job)
        sources, bundle = Sources(job.files), predictor.bundle
        del predictor  # the processes need its memory
        with claimed(job, bundle) as known:
            if known["finished"] and known["finished"]["parts"] == read_outcome(job).parts:
                sys.stdout.write(f"already finished: {finished(job, Outcome(**known['finished']))}\n")
            else:
                score(job, arguments, sources, known)
    except KeyboardInterrupt as interrupt:
        number = interrupt.number if isinstance(interrupt, Interrupted) else signal.SIGINT
        done = f"the answers in {arguments.out} stay, and the same command continues"
        sentence = done if (arguments.out / NOTE).exists() else "nothing was written, and the same command starts again"
        raise Interrupted(number, f"interrupted; {sentence}") from None


def score(job: Job, arguments: argparse.Namespace, sources: Sources, known: dict[str, Any]) -> None:
    """Write the missing parts; at the end, raise DataError for files that could not be read to their ends."""
    unreadable: DataError | None = None
    progress = Progress(sum(file.stat().st_size for file in job.files))
    try:
        progress.show(summaries(job, arguments))
    except DataError as error:
        unreadable = error
    sources.check()
    outcome = read_outcome(job)
    sys.stdout.write(f"{finished(job, outcome, progress.rate)}\n")
    if unreadable:
        raise unreadable
    write_note(job, known | {"finished": asdict(outcome)})


def summaries(job: Job, arguments: argparse.Namespace) -> Iterator[Summary]:
    """Run the job on this machine, or with Ray."""
    if arguments.ray is None:
        return run(job, arguments.processes)
    try:
        ray = import_module("training.scoring.ray_data")
    except ModuleNotFoundError as error:
        raise TrainingError(f"--ray needs {error.name}; pip install 'bertheads[batch]', or leave --ray out") from None
    found: Iterator[Summary] = ray.run(job, arguments.ray or None)
    return found
