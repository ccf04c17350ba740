"""Errors of models/.

BertheadsError
├── InputError       a user's input or parameter is not acceptable
├── InferenceError   the model fails on an input, or computes a score that is not a number
├── BundleError      a bundle is damaged, incomplete, or inconsistent, or cannot run here
└── CheckpointError  a checkpoint cannot be read or written, or does not fit the request

Each message names the value, what was expected, and the remedy, in one sentence.
"""


class BertheadsError(Exception):
    """Base of all errors whose message is meant for users."""


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
    """Raised when a checkpoint directory cannot be read or written as requested."""
