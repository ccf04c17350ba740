"""The errors of training/.

BertheadsError (models.errors)
├── DataError        a data file is broken or does not fit the task
│   ├── ColumnError  its columns do not fit the task or --columns
│   └── RowError     one row of it is broken
├── RecipeError      a recipe or a --set has an unknown key, or a value out of range
├── ExportError      a checkpoint cannot become a bundle, or int8 costs more than the budget
├── EvaluationError  a model or service to evaluate cannot be opened or reached, or does not answer
└── TrainingError    a run cannot continue: the loss is not finite, or a checkpoint does not match
"""

from models.errors import BertheadsError


class DataError(BertheadsError):
    """Raised when a data file cannot be used; the message names file and line."""


class ColumnError(DataError):
    """Raised when a file lacks columns that the task or --columns needs; the message names both."""


class RowError(DataError):
    """Raised for one row of a file; `number` is its first line, counted from 1, or 0 in a file without lines."""

    def __init__(self, message: str, number: int = 0) -> None:
        super().__init__(message)
        self.number = number


class RecipeError(BertheadsError):
    """Raised when a recipe cannot be used; the message names key, value and what was expected."""


class TrainingError(BertheadsError):
    """Raised when a run cannot start or continue."""


class EvaluationError(BertheadsError):
    """Raised when a model or service cannot be evaluated; the message names it."""


class ExportError(BertheadsError):
    """Raised when a checkpoint cannot become the requested bundle."""
