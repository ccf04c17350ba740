"""If these fail, a progress bar is wider than the terminal, or fills a log with thousands of lines."""

import subprocess
import sys

import pytest

from training.run.progress import StepBar, bar_file, columns, progress


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)


@pytest.mark.usefixtures("terminal")
@pytest.mark.parametrize(("columns_there", "width"), [("200", 80), ("60", 60), ("24", 24)])
def test_a_bar_fits_the_terminal(
    columns_there: str, width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", columns_there)
    assert columns() == width
    bar = StepBar(123_456, initial=100)
    for _ in range(3):
        bar.update()
        bar.show(["loss 0.123", *(f"head{number} {0.1 * number:.3g}" for number in range(20))])
    bar.close()
    assert list(progress(range(3), "inputs of a long name " * 8, total=3)) == [0, 1, 2]
    lines = capsys.readouterr().err.replace("\n", "\r").split("\r")
    assert max(map(len, lines)) <= width
    if width >= 60:
        assert any("103/123456" in line for line in lines)
    if width == 80:
        assert any("loss 0.123" in line for line in lines)


def test_a_disabled_bar_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    bar = StepBar(10, disable=True)
    bar.update()
    bar.show(["loss 1"])
    bar.close()
    assert capsys.readouterr().err == ""


def test_a_log_gets_few_lines_and_no_carriage_returns() -> None:
    program = (
        "from training.run.progress import StepBar, progress\n"
        "list(progress(range(5000), 'inputs', total=5000))\n"
        "bar = StepBar(5000)\n"
        "for step in range(5000):\n    bar.update()\n    bar.show(['loss 1'])\n"
        "bar.close()\n"
    )
    log = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True).stderr
    lines = log.splitlines()
    assert "\r" not in log and len(lines) <= 6 and max(map(len, lines)) <= 80
    assert "100%" in lines[-1] and "5000/5000" in lines[-1]


def test_a_bar_draws_over_itself_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    assert bar_file() is not sys.stderr
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert bar_file() is sys.stderr
