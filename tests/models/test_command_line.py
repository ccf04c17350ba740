"""If these fail, a mistyped flag gives a page of usage that does not say which flag was meant."""

from collections.abc import Callable
from typing import Any

import pytest

from models.command_line import installed
from service.__main__ import parse
from training.__main__ import build_parser
from training.scoring import command as scoring


def train(words: list[str]) -> Any:
    return build_parser().parse_args(words)


COMMANDS: dict[str, Callable[[list[str]], Any]] = {"serve": parse, "train": train, "score": scoring.main}


def said(run: Callable[[list[str]], Any], words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[object, str]:
    with pytest.raises(SystemExit) as ended:
        run(words)
    shown = capsys.readouterr()
    return ended.value.code, shown.out + shown.err


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_says_its_version(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert said(COMMANDS[name], ["--version"], capsys) == (0, f"bertheads {installed()}\n")
    assert installed() != "unknown"


@pytest.mark.parametrize(
    ("name", "words", "nearest"),
    [
        ("serve", ["--prot", "80"], "--port"),
        ("serve", ["--max-itmes=3"], "--max-items"),
        ("train", ["exprot", "a"], "export"),
        ("train", ["export", "a", "--out", "b", "--precison", "int8"], "--precision"),
        ("score", ["a.csv", "--bundle", "b", "--head", "c", "--out", "d", "--formt", "jsonl"], "--format"),
    ],
)
def test_the_nearest_is_proposed(name: str, words: list[str], nearest: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, text = said(COMMANDS[name], words, capsys)
    assert status == 2 and text.rstrip().endswith(f"did you mean {nearest}?")


def test_what_is_near_to_nothing_gets_no_proposal(capsys: pytest.CaptureFixture[str]) -> None:
    status, text = said(parse, ["--zzz"], capsys)
    assert status == 2 and "unrecognized arguments: --zzz" in text and "did you mean" not in text
