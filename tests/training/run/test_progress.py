"""Would break: a bar is wider than the terminal, and every step of a run begins a line of its own."""

import pytest

from training.run.progress import StepBar, columns, progress


@pytest.mark.parametrize(("terminal", "width"), [("200", 80), ("60", 60)])
def test_a_bar_fits_the_terminal(
    terminal: str, width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", terminal)
    assert columns() == width
    bar = StepBar(123_456, initial=100)
    for _ in range(3):
        bar.update()
        bar.show(["loss 0.123", *(f"head{number} {0.1 * number:.3g}" for number in range(20))])
    bar.close()
    assert list(progress(range(3), "inputs of a long name " * 8, total=3)) == [0, 1, 2]
    lines = capsys.readouterr().err.replace("\n", "\r").split("\r")
    assert max(map(len, lines)) <= width
    assert any("103/123456" in line for line in lines)
    if width == 80:
        assert any("loss 0.123" in line for line in lines)


def test_a_disabled_bar_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    bar = StepBar(10, disable=True)
    bar.update()
    bar.show(["loss 1"])
    bar.close()
    assert capsys.readouterr().err == ""
