"""What is scored, with which head, and where the answers go."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

from models.onnx_runtime import Precision, Provider
from models.task_registry import RouteName

Form = Literal["parquet", "jsonl"]
FORMS: tuple[Form, ...] = get_args(Form)


@dataclass(frozen=True)
class Job:
    """A run of the scorer. It can be pickled, so other processes and machines can work on it."""

    files: tuple[Path, ...]
    """The data files, without folders. The number of a file is its index here."""
    bundle: Path
    head: str
    route: RouteName
    """The task of the head, or another way to ask it, such as zero-shot."""
    out: Path
    """The folder of the answers."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """{"text": "body"}: the columns of the fields; see training/text/columns.py."""
    keep: tuple[str, ...] = ()
    """Other columns, which are copied as text."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    form: Form = "parquet"
    precision: Precision | None = None
    """By default the precision that the service would use."""
    provider: Provider = "cpu"

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Paths of the files, relative to their common folder, with slashes: equal on all machines."""
        absolute = [os.path.abspath(file) for file in self.files]
        common = os.path.commonpath([os.path.dirname(path) for path in absolute])
        return tuple(Path(path).relative_to(common).as_posix() for path in absolute)

    @cached_property
    def numbers(self) -> dict[Path, int]:
        """The index of each file in `files`."""
        return {file: number for number, file in enumerate(self.files)}

    def name(self, file: Path) -> str:
        """The name of a file in ids and errors."""
        return self.names[self.numbers[file]]
