"""Types of command-line options: each parses a word, or raises the error that argparse prints."""

import argparse
import math
from collections.abc import Callable


def positive(text: str) -> int:
    """Parse a whole number, 1 or more."""
    return _whole(text, 1)


def count(text: str) -> int:
    """Parse a whole number, 0 or more."""
    return _whole(text, 0)


def points(text: str) -> float:
    """Parse a number of points."""
    return _number(text, "a number of points, 0 or more", lambda value: value >= 0)


def probability(text: str) -> float:
    """Parse a score from 0 to 1."""
    return _number(text, "a score from 0 to 1", lambda value: 0 <= value <= 1)


def epochs(text: str) -> float:
    """Parse a number of epochs."""
    return _number(text, "a number above 0", lambda value: 0 < value < 1e4)


def _whole(text: str, least: int) -> int:
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number, {least} or more")
    return int(text)


def _number(text: str, wanted: str, fits: Callable[[float], bool]) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not fits(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not {wanted}")
    return value
