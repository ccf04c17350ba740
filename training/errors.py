"""Errors of training/.

BertheadsError (models.errors)
├── DataError        a data file is broken or does not fit the task
│   ├── ColumnError  its columns do not fit the task, or what --columns says
│   └── RowError     one row of it is broken
├── RecipeError      a recipe or a --set names what does not exist, or a value out of range
├── ExportError      a checkpoint cannot become a bundle, or int8 costs more than the budget
├── EvaluationError  what is to be evaluated cannot be opened, reached, or asked
└── TrainingError    a run cannot go on: the loss is not finite, a checkpoint does not match
"""

from models.errors import BertheadsError


class DataError(BertheadsError):
    """Raised when a data file cannot be used; names file and line."""


class ColumnError(DataError):
    """Raised when the columns of a file are not those that the task or --columns needs; names both."""


class RowError(DataError):
    """Raised for one row of a file; `number` is its first line, counted from 1, or 0 where lines do not tell rows."""

    def __init__(self, message: str, number: int = 0) -> None:
        super().__init__(message)
        self.number = number


class RecipeError(BertheadsError):
    """Raised when a recipe cannot be used; names key, value and what was expected."""


class TrainingError(BertheadsError):
    """Raised when a run cannot start or go on."""


class EvaluationError(BertheadsError):
    """Raised when what is to be evaluated cannot be opened, reached, or asked; names it."""


class ExportError(BertheadsError):
    """Raised when a checkpoint cannot become the bundle that was asked for."""
