"""Files of answers: a folder of parts is one table for pandas, pyarrow, DuckDB and Spark.

All columns are texts, even if a part has none, so all parts have one schema. The answer is JSON.
"""

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet

from training.scoring.input_rows import FIELDS
from training.scoring.job import Form, Job

PART = "part-?????-??????"
"""Files whose names start with "_" or "." are not part of a table."""
PARTIAL = "_part-*.partial"
NO_ERROR = '"error": null}\n'
"""The end of the line of a row without an error, and of no other line."""


class AnsweredRow(NamedTuple):
    """One row of the output."""

    id: str
    texts: tuple[str | None, ...]
    """The fields of the input, and the copied columns."""
    answer: Any
    """The answer of the service; None if there is an error."""
    error: str | None


def column_names(job: Job) -> list[str]:
    """Return the columns of the output."""
    return ["id", *FIELDS[job.route], *job.keep, "answer", "error"]


def write_part(job: Job, part: str, rows: Sequence[AnsweredRow]) -> None:
    """Write a part; it appears whole or not at all, and replaces one of the same name."""
    target = job.out / f"{part}.{job.form}"
    contents = parquet_of(job, rows) if job.form == "parquet" else lines_of(job, rows)
    temporary = job.out / f"_{part}.{uuid4().hex}.partial"
    try:
        with temporary.open("wb") as file:
            file.write(contents)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def parquet_of(job: Job, rows: Sequence[AnsweredRow]) -> memoryview:
    columns = [
        [row.id for row in rows],
        *([row.texts[place] for row in rows] for place in range(len(FIELDS[job.route]) + len(job.keep))),
        [None if row.answer is None else json.dumps(row.answer, ensure_ascii=False) for row in rows],
        [row.error for row in rows],
    ]
    arrays = [pa.array(column, pa.string()) for column in columns]
    sink = pa.BufferOutputStream()
    pyarrow.parquet.write_table(pa.table(arrays, column_names(job)), sink)
    return memoryview(sink.getvalue())


def lines_of(job: Job, rows: Sequence[AnsweredRow]) -> bytes:
    names = column_names(job)
    records = (dict(zip(names, (row.id, *row.texts, row.answer, row.error), strict=True)) for row in rows)
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode()


# ---- reading them back -----------------------------------------------------------------------------------------------


def part_files(out: Path, form: Form) -> list[Path]:
    """Return the parts of a folder in order."""
    return sorted(out.glob(f"{PART}.{form}"))


def is_part(file: Path) -> bool:
    """Tell whether a file has the name of a part, of either form."""
    return file.match(f"{PART}.parquet") or file.match(f"{PART}.jsonl")


def ids_and_errors(file: Path) -> Iterator[tuple[str, str | None]]:
    """Yield the id of each row of a part, and its error."""
    if file.suffix == ".parquet":
        table = pyarrow.parquet.read_table(file, columns=["id", "error"])
        yield from zip(table["id"].to_pylist(), table["error"].to_pylist(), strict=True)
        return
    with file.open(encoding="utf8", newline="\n") as lines:
        for line in lines:
            if line.endswith(NO_ERROR):
                yield json.JSONDecoder().raw_decode(line, len('{"id": '))[0], None
            else:
                record = json.loads(line)
                yield record["id"], record["error"]
