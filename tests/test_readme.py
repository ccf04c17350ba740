"""What would break: a README that names verbs, flags, files or requests that do not exist."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.settings import STARTER
from tests.service.serving import Served, serving
from tests.settings_page import settings_page
from training.__main__ import build_parser

CURL = "application/x-www-form-urlencoded"  # what curl -d declares
ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "training" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXT = "\n".join(page.read_text(encoding="utf8") for page in PAGES)


def test_every_make_verb_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf8")
    verbs = set(re.findall(r"(?:^|`)make ([a-z-]+)\b", TEXT, re.MULTILINE))
    assert {"serve", "test"} <= verbs
    for verb in verbs:
        assert re.search(rf"^{verb}:", makefile, re.MULTILINE), verb


@pytest.mark.parametrize("command", re.findall(r"^\S*python -m training (.+?)(?:\s+#.*)?$", TEXT, re.MULTILINE))
def test_every_training_command_parses(command: str) -> None:
    words = shlex.split(command)
    if words[0] == "VERB":
        return
    namespace = build_parser().parse_args(words)
    recipe = getattr(namespace, "recipe", None)
    if recipe and str(recipe).startswith("training/"):
        assert (ROOT / recipe).exists()


@pytest.fixture(scope="module")
def starter() -> Iterator[Served]:
    with serving(STARTER) as served:
        yield served


@pytest.mark.parametrize(("route", "body"), re.findall(r"curl -s localhost:8000/(\S+) -d '(.+)'$", TEXT, re.MULTILINE))
def test_every_request_is_answered(starter: Served, route: str, body: str) -> None:
    response = starter.client.post(f"/{route}", content=body, headers={"Content-Type": CURL})
    assert response.status_code == 200 and response.json(), response.text


def test_the_page_of_settings_is_what_the_service_has() -> None:
    assert (ROOT / "docs/settings.md").read_text(encoding="utf8") == settings_page()


def test_every_linked_file_exists() -> None:
    pages = [
        page for page in ROOT.rglob("*.md") if not any(part.startswith(".") for part in page.relative_to(ROOT).parts)
    ]
    assert len(pages) > 10
    for page in pages:
        for link in re.findall(r"\]\((?!http)([^)#]+)\)", page.read_text(encoding="utf8")):
            assert (page.parent / link).exists(), link
