"""Errors of training/.

BertheadsError (models.errors)
├── DataError        a data file is broken or does not fit the task
├── RecipeError      a recipe or a --set names what does not exist, or a value out of range
├── ExportError      a checkpoint cannot become a bundle, or int8 costs more than the budget
├── EvaluationError  what is to be evaluated cannot be opened, reached, or asked
└── TrainingError    a run cannot go on: the loss is not finite, a checkpoint does not match
"""

from models.errors import BertheadsError


class DataError(BertheadsError):
    """Raised when a data file cannot be used; names file and line."""


class RecipeError(BertheadsError):
    """Raised when a recipe cannot be used; names key, value and what was expected."""


class TrainingError(BertheadsError):
    """Raised when a run cannot start or go on."""


class EvaluationError(BertheadsError):
    """Raised when what is to be evaluated cannot be opened, reached, or asked; names it."""


class ExportError(BertheadsError):
    """Raised when a checkpoint cannot become the bundle that was asked for."""
