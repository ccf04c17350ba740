"""Makes a job from the command line, and checks everything that can be checked before the work."""

import argparse
import json
import os
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from models.errors import InputError
from models.predictor import Predictor
from models.task_registry import RouteName, routes_of
from training.errors import ColumnError, DataError
from training.run.json_lines import Row
from training.run.progress import tell
from training.run.text_lines import unpacked_suffix
from training.scoring.input_rows import FIELDS, columns_of
from training.scoring.job import Job
from training.scoring.parts import column_names
from training.text.file_formats import files_in
from training.text.rows import unlabeled_format, unlabeled_rows

SAMPLES: dict[RouteName, Any] = {
    "classify": "a",
    "zero-shot": "a",
    "tag": "a",
    "fill-mask": "[MASK]",
    "pair": {"text": "a", "text_pair": "a"},
    "qa": {"question": "a", "context": "a"},
}
"""Inputs for trying the parameters."""
FIRST_ROWS = 100
"""Rows of each file that are checked."""


def job_of(arguments: argparse.Namespace, predictor: Predictor) -> Job:
    """Return the job; raise DataError or InputError for an impossible head, route, file or option."""
    head = head_of(arguments.head, arguments.route, predictor)
    route: RouteName = arguments.route or predictor.head(head).task
    predictor.task(head, route)
    job = Job(
        files=files_of(arguments.files, route, [arguments.out, arguments.bundle]),
        bundle=arguments.bundle,
        head=head,
        route=route,
        out=arguments.out,
        columns=arguments.columns,
        keep=arguments.keep,
        parameters=parameters_of(arguments.set),
        form=arguments.format,
        precision=arguments.precision,
        provider=arguments.provider,
    )
    names = column_names(job)
    if repeated := [name for name in job.keep if names.count(name) > 1]:
        raise DataError(f"--keep {repeated[0]}: the answers have a column of this name already; leave it out")
    return job


def head_of(given: str | None, route: RouteName | None, predictor: Predictor) -> str:
    """Return the named head, or the only one; raise DataError that names the heads."""
    if given:
        predictor.head(given)
        return given
    fitting = [name for name, spec in predictor.heads.items() if route is None or route in routes_of(spec)]
    if not fitting:
        found = ", ".join(f"{name} ({', '.join(routes_of(spec))})" for name, spec in predictor.heads.items())
        raise DataError(f"--route {route}: no head of the bundle answers it, expected one of {found}; correct --route")
    if len(fitting) != 1:
        raise DataError(f"the bundle has the heads {', '.join(fitting)}; choose one with --head")
    return fitting[0]


def files_of(given: Sequence[Path], route: RouteName, own: Sequence[Path]) -> tuple[Path, ...]:
    """Return the named files and those below folders, each once, except files in the folders `own`."""
    task = "classify" if route == "zero-shot" else route
    found: dict[str, Path] = {}
    for path in given:
        for file in files_in(path, task, below=True):
            absolute = os.path.abspath(file)
            if path.is_dir() and any(Path(absolute).is_relative_to(os.path.abspath(folder)) for folder in own):
                continue
            if absolute in found:
                tell(f"{file} is named twice, and read once")
            found.setdefault(absolute, file)
    if not found:
        raise DataError(f"{given[0]} has only answers or bundles, expected data files; name others")
    return tuple(found.values())


def parameters_of(settings: Sequence[str]) -> dict[str, Any]:
    """Parse KEY=VALUE of --set: a value is JSON, otherwise a text; raise DataError for other forms."""
    found: dict[str, Any] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not key or not equals:
            raise DataError(f"--set {setting}: expected KEY=VALUE, such as top_k=3; correct it")
        if key in found:
            raise DataError(f"--set {key} is given twice, expected one value; leave one out")
        try:
            found[key] = json.loads(value)
        except (ValueError, RecursionError):
            found[key] = value
    return found


def check_parameters(job: Job, predictor: Predictor) -> None:
    """Raise InputError for a parameter that does not fit the head; errors that depend on the input are in its row."""
    if job.route == "tag" and "is_split_into_words" in job.parameters:
        raise DataError("--set is_split_into_words: the column tokens marks words; leave it out")
    found = next(iter(predictor.predict_each(job.head, [SAMPLES[job.route]], job.parameters, job.route)))
    if isinstance(found.error, InputError) and found.error.field.startswith("parameters"):
        raise found.error


def check_files(job: Job) -> None:
    """Raise ColumnError for a file in which no row has the needed or named columns.

    Other faults become an error of their row, or are reported at the end.
    """
    columns = columns_of(job, tells=True)
    for file in job.files:
        try:
            rows = list(islice(unlabeled_rows(file, columns), FIRST_ROWS))
        except ColumnError:
            raise
        except DataError:
            continue
        _check_rows(job, file, rows)
        if unpacked_suffix(file) == ".txt":
            form = unlabeled_format(file, columns)
            tell(f"{file} is read as {'one text per line' if form == 'text' else form}")


def _check_rows(job: Job, file: Path, rows: Sequence[Row]) -> None:
    causes = [row.__cause__ if isinstance(row, DataError) else None for row in rows]
    if causes and all(isinstance(cause, ColumnError) for cause in causes):
        raise ColumnError(str(causes[0]))
    if len(rows) == FIRST_ROWS and isinstance(rows[0], DataError) and all(isinstance(row, DataError) for row in rows):
        raise DataError(f"{rows[0]} (none of the first {FIRST_ROWS} rows can be read)")
    wanted = [*FIELDS[job.route], *(["tokens"] if job.route == "tag" else [])]
    keys = [set() if isinstance(row, DataError) else row.record.keys() & set(wanted) for row in rows]
    if len(rows) == FIRST_ROWS and not any(keys):
        names = " or ".join(wanted)
        raise ColumnError(
            f"{file}: none of its first {FIRST_ROWS} rows has {names}; name the column with --columns {wanted[0]}=NAME"
        )
