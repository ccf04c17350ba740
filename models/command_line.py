"""The parser of all commands: argparse with `--version`, and with a suggestion for a misspelled flag or subcommand."""

import argparse
import difflib
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from itertools import takewhile
from typing import Any, NoReturn


class Parser(argparse.ArgumentParser):
    """Like argparse's parser, but flags cannot be abbreviated ("--prot" for "--protect-metrics").

    Parsers of subcommands get the same class.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **{"allow_abbrev": False} | options)

    def add_version(self) -> None:
        """Add `--version`, which prints the version of the installed package."""
        self.add_argument("--version", action="version", version=f"bertheads {installed()}")

    def parse_args(  # type: ignore[override]  # typeshed overloads it by the type of the namespace
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> argparse.Namespace:
        """Refuse an unknown flag first: without its value, argparse would name another argument as missing."""
        words = sys.argv[1:] if args is None else args
        known = set(self._flags())
        for word in takewhile(lambda word: word != "--", words):
            if word.startswith("--") and (flag := word.partition("=")[0]) not in known:
                self.error(f"unrecognized arguments: {flag}")  # not its value, which may be a password
        return super().parse_args(words, namespace)

    def error(self, message: str) -> NoReturn:
        """Print the usage and the message with a suggestion, and exit with status 2."""
        wrong = re.search(r"(?:unrecognized arguments: |invalid choice: ')([^\s'=]+)", message)
        known = self._flags() if wrong and wrong[1].startswith("-") else self._verbs()
        nearest = difflib.get_close_matches(wrong[1], known, n=1) if wrong else []
        super().error(f"{message}; did you mean {nearest[0]}?" if nearest else message)

    def _flags(self) -> Iterable[str]:
        """Return all flags, including those of subcommands, since the outer parser reports unknown arguments."""
        return [*self._option_string_actions, *(flag for verb in self._parsers() for flag in verb._flags())]

    def _verbs(self) -> Iterable[str]:
        return [str(choice) for action in self._actions for choice in action.choices or ()]

    def _parsers(self) -> Iterator["Parser"]:
        for action in self._actions:
            choices = action.choices if isinstance(action, argparse._SubParsersAction) else {}
            yield from choices.values()


def installed() -> str:
    """Return the version of the package, or "unknown" if it is not installed."""
    try:
        return version("bertheads")
    except PackageNotFoundError:
        return "unknown"
