"""Broken rows of data files, which are skipped and listed up to a number."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

from training.errors import DataError
from training.run.json_lines import Line, Row
from training.run.progress import tell

ParsedT = TypeVar("ParsedT")

MAX_LISTED = 10
"""Skipped rows that are listed one by one."""


@dataclass
class BrokenRows:
    """The rows that were skipped, up to the allowed number."""

    allowed: int = 0
    count: int = 0
    whole: int = 0
    """Number of rows that are not broken; if it is 0, skipping rows does not help."""
    first: list[DataError] = field(default_factory=list)

    def parsed(self, rows: Iterable[Row], parse: Callable[[Line], ParsedT]) -> Iterator[ParsedT]:
        """Yield `parse(row)` for each row, without broken ones; raise DataError when there are too many."""
        for row in rows:
            try:
                if isinstance(row, DataError):
                    raise row
                yield parse(row)
                self.whole += 1
            except DataError as error:
                self.add(error)

    def add(self, error: DataError) -> None:
        """Count a broken row; raise its error if there are too many."""
        if self.count == self.allowed:
            self.tell()
            raise DataError(f"{error}{self._remedy()}")
        self.count += 1
        if self.count <= MAX_LISTED:
            self.first.append(error)

    def _remedy(self) -> str:
        if self.count:
            return f" (broken rows skipped before it: {self.count:,}, as many as --skip-broken allows)"
        return "; or skip such rows with --skip-broken N" if self.whole else ""

    def tell(self) -> None:
        """List the skipped rows on standard error."""
        for error in self.first:
            tell(f"skipped: {error}")
        if self.count > len(self.first):
            tell(f"skipped: {self.count - len(self.first):,} more broken rows")
