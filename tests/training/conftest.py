"""Shortcuts: pictures are drawn, and exports compare many texts, only where a test looks at that."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.models import bundles
from training.evaluation import report_plots
from training.run import plots, run_directory

DRAWING = plots.plot_metrics, report_plots._save


def leave_note(_: object, path: Path) -> None:
    """Replace drawing a picture; the text that is written depends on the path, so files differ as pictures do."""
    path.write_text(str(path))


@pytest.fixture(scope="session", autouse=True)
def notes_for_pictures() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(run_directory, "plot_metrics", leave_note)
        patched.setattr(report_plots, "_save", leave_note)
        yield


@pytest.fixture
def curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw the curves of runs, as for a user."""
    monkeypatch.setattr(run_directory, "plot_metrics", DRAWING[0])


@pytest.fixture
def pictures(curves: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw the pictures of reports too."""
    monkeypatch.setattr(report_plots, "_save", DRAWING[1])


@pytest.fixture(scope="module", autouse=True)
def few_texts() -> Iterator[None]:
    with bundles.few_texts():
        yield
