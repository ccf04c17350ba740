"""If this breaks, the playground shows no answer in a real browser, or runs what a bundle or a text smuggles in."""

import subprocess
from pathlib import Path

import pytest

from models.task import HeadSpec
from models.tokenizer import Tokenizer
from tests.programs import program
from tests.service.bundles import write_bundle
from tests.service.serving import Served, serving

FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]


@pytest.fixture(scope="module")
def browser() -> str:
    return program("chromium", "chromium-browser", "google-chrome", package="chromium")


def shown(browser: str, url: str, profile: Path) -> str:
    """Return the document as it stands once the page has answered its first example."""
    command = [browser, *FLAGS, f"--user-data-dir={profile}", "--virtual-time-budget=20000", "--dump-dom", url]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=True).stdout


@pytest.mark.parametrize(
    ("task", "traces"),
    [
        ("classify", ['class="bars"', "positive", "negative"]),
        ("pair/nsp", ['class="bars"', "isNext", "notNext"]),
        ("fill-mask", ["<mark", 'class="bars"']),
        ("tag", ['class="passage"']),
        ("qa", ['class="passage"', 'class="answer']),
    ],
)
def test_each_task_answers_its_first_example(
    browser: str, served: Served, task: str, traces: list[str], tmp_path: Path
) -> None:
    document = shown(browser, f"{served.url}/#{task}", tmp_path)
    for trace in [*traces, 'class="legend"', "tiny/1.2.3", f"curl {served.url}/{task}", "ready, 7 heads"]:
        assert trace in document, trace
    assert 'class="notice bad"' not in document


def test_labels_are_text_and_never_markup(browser: str, tokenizer: Tokenizer, tmp_path: Path) -> None:
    label = "<img src=x onerror=alert(1)>"
    bundle = write_bundle(tmp_path / "bundle", tokenizer, {"mood": HeadSpec("classify", [label, "good"])})
    with serving(bundle, lanes=1) as served:
        document = shown(browser, served.url, tmp_path / "profile")
    assert "&lt;img src=x onerror=alert(1)&gt;" in document and "<img" not in document
