"""Pictures are drawn where a test looks at them: each takes longer than the small run that it shows."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from training.evaluation import report_plots
from training.run import plots, run_directory

DRAWING = plots.plot_metrics, report_plots._save


def leave_note(_: object, path: Path) -> None:
    """Stand in for what draws a picture; what is written differs by its place, as pictures do."""
    path.write_text(str(path))


@pytest.fixture(scope="session", autouse=True)
def notes_for_pictures() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(run_directory, "plot_metrics", leave_note)
        patched.setattr(report_plots, "_save", leave_note)
        yield


@pytest.fixture
def pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures are drawn as for a user."""
    plot_metrics, save = DRAWING
    monkeypatch.setattr(run_directory, "plot_metrics", plot_metrics)
    monkeypatch.setattr(report_plots, "_save", save)
