"""Parquet files, read some rows at a time; class numbers become the names in the file (`ClassLabel` of `datasets`)."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from training.errors import DataError, RowError
from training.run.json_lines import Line, Row

ROWS = 256
"""Rows in memory at once."""
PAGES = 1 << 20
"""Bytes per read."""


Chooser = Callable[[Path, Sequence[str]], list[str] | None]
"""Takes a path and its columns; returns the columns to read, None for all."""


def parquet_rows(path: Path, choose: Chooser) -> Iterator[Row]:
    """Yield the rows of a file; raise DataError for an incomplete file."""
    import pyarrow.parquet  # slow to import, and other formats do not need it

    try:
        with pyarrow.parquet.ParquetFile(path, buffer_size=PAGES, pre_buffer=False) as file:
            schema = file.schema_arrow
            _check_names(path, schema.names)
            names = class_names(schema.metadata or {})
            number = 0
            for batch in file.iter_batches(ROWS, columns=choose(path, schema.names)):
                for record in _records(batch):
                    number += 1
                    yield _row(path, number, record, names)
    except FileNotFoundError:
        raise DataError(f"{path} does not exist, expected a data file; check the path") from None
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path} is not a complete Parquet file ({error}), expected one; copy it again") from None


def _check_names(path: Path, names: Sequence[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise DataError(f"{path}: two columns are named {name!r}, expected different names; rename one")


def _records(batch: Any) -> Iterator[Any]:
    """Yield the rows of a batch; an error for a row that is not UTF-8, or has a time that Python cannot hold."""
    try:
        records = batch.to_pylist()
    except (ValueError, OverflowError):
        for number in range(batch.num_rows):
            try:
                yield from batch.slice(number, 1).to_pylist()
            except (ValueError, OverflowError) as error:
                yield error
    else:
        yield from records


def _row(path: Path, number: int, record: Any, names: dict[str, list[str]]) -> Row:
    part = f"row {number}"
    if isinstance(record, UnicodeDecodeError):
        return RowError(f"{path}: {part} is not UTF-8 ({record}), expected UTF-8 text; write it again")
    if isinstance(record, Exception):
        return RowError(f"{path}: {part} cannot be read ({record}), expected a value that Python has; convert it")
    for key in names.keys() & record.keys():
        try:
            record[key] = named(record[key], names[key])
        except IndexError:
            known = f"names for 0 to {len(names[key]) - 1}"
            return RowError(f'{path}: {part}: "{key}" is {record[key]}, but the file has {known}; remove the row')
    return Line(path, 0, record, part)


def named(value: Any, names: list[str]) -> Any:
    """Replace numbers by their names, also in lists; raise IndexError for a number without a name."""
    if isinstance(value, list):
        return [named(one, names) for one in value]
    if not isinstance(value, int):
        return value
    if value < 0:
        raise IndexError(value)
    return names[value]


def class_names(metadata: dict[bytes, bytes]) -> dict[str, list[str]]:
    """Return the names of the classes of each column, as `datasets` writes them into the schema of a file."""
    try:
        features = json.loads(metadata.get(b"huggingface", b"{}"))["info"]["features"]
        found = {key: _names(feature) for key, feature in features.items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}
    return {key: names for key, names in found.items() if names}


def _names(feature: Any) -> list[str]:
    """Return the names of a feature, or of the elements of a list: {"feature": …} or […]."""
    if isinstance(feature, list):
        feature = feature[0] if feature else {}
    if "feature" in feature:
        return _names(feature["feature"])
    names: list[str] = feature.get("names", []) if feature.get("_type") == "ClassLabel" else []
    return names
