"""Errors of models/.

BertheadsError
├── InputError       an input or parameter of a user is not acceptable
├── InferenceError   the model fails on an input, or computes what is not a number
├── BundleError      a bundle is damaged, incomplete, or contradicts itself
└── CheckpointError  a checkpoint cannot be read, or does not fit what was asked of it

Each message names the value, what was expected, and the remedy, in one sentence.
"""


class BertheadsError(Exception):
    """Base of every error that is meant for a person to read."""


class InputError(BertheadsError):
    """Raised when `field` of an input or its parameters is not acceptable."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message


class InferenceError(BertheadsError):
    """Raised when the encoder or a head fails on an input."""


class BundleError(BertheadsError):
    """Raised when a bundle cannot be read, verified, or run."""


class CheckpointError(BertheadsError):
    """Raised when a checkpoint directory cannot be read or written as asked."""
