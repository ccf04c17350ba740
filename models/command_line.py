"""The parser of all commands: argparse with `--version`, and with the flag or verb that a wrong one is nearest to."""

import argparse
import difflib
import re
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NoReturn


class Parser(argparse.ArgumentParser):
    """As argparse's, but a flag is written in full: "--prot" would be "--protect-metrics".

    Parsers of verbs are made of the same class.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **{"allow_abbrev": False} | options)

    def add_version(self) -> None:
        """Add `--version`, of the installed package."""
        self.add_argument("--version", action="version", version=f"bertheads {installed()}")

    def error(self, message: str) -> NoReturn:
        """Print the usage and the message with a proposal, and exit with status 2."""
        wrong = re.search(r"(?:unrecognized arguments: |invalid choice: ')([^\s'=]+)", message)
        known = self._flags() if wrong and wrong[1].startswith("-") else self._verbs()
        nearest = difflib.get_close_matches(wrong[1], known, n=1) if wrong else []
        super().error(f"{message}; did you mean {nearest[0]}?" if nearest else message)

    def _flags(self) -> Iterable[str]:
        """Those of verbs too: argparse reports what is left over in the outer parser."""
        return [*self._option_string_actions, *(flag for verb in self._parsers() for flag in verb._flags())]

    def _verbs(self) -> Iterable[str]:
        return [str(choice) for action in self._actions for choice in action.choices or ()]

    def _parsers(self) -> Iterator["Parser"]:
        for action in self._actions:
            choices = action.choices if isinstance(action, argparse._SubParsersAction) else {}
            yield from choices.values()


def installed() -> str:
    """Return the version of the package; "unknown" in a folder that was never installed."""
    try:
        return version("bertheads")
    except PackageNotFoundError:
        return "unknown"
