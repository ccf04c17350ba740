"""If this breaks, README names verbs, flags, files or requests that do not exist."""

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from models.predictor import Predictor
from models.task_registry import ROUTES, RouteName
from service.settings import STARTER
from tests.service.serving import Served, serving
from tests.settings_page import settings_page
from training.__main__ import build_parser

EXAMPLE = re.compile(
    r"curl -s localhost:8000/(\S+) -d '(.+)'(?:\s+#.*)?$(?:\n```\n\n```json\n((?:(?!```).*\n)+)```)?", re.MULTILINE
)
"""A request, and the answer below it if there is one."""
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


@pytest.mark.parametrize(("route", "body", "answer"), [example.groups() for example in EXAMPLE.finditer(TEXT)])
def test_every_request_is_answered(starter: Served, route: str, body: str, answer: str | None) -> None:
    response = starter.client.post(f"/{route}", content=body, headers={"Content-Type": CURL})
    found = response.json()
    refused = response.headers["Content-Type"] == "application/problem+json"
    assert found and refused == ('"status"' in (answer or "")), response.text
    if refused:
        assert response.status_code == found["status"] and found.pop("request_id")
    if answer:
        assert found == near(json.loads(answer))


def near(value: Any) -> Any:
    """Return an answer whose scores equal those that are within 0.015: processors round int8 differently."""
    if isinstance(value, dict):
        return {key: near(part) for key, part in value.items()}
    if isinstance(value, list):
        return [near(part) for part in value]
    return pytest.approx(value, abs=0.015) if isinstance(value, float) else value


TABLE = re.compile(r"^\| parameter \|.*\n\|---.*\n((?:\|.*\n)+)", re.MULTILINE)


@pytest.mark.parametrize(
    ("title", "route"),
    [
        ("Classify", "classify"),
        ("Fill a mask", "fill-mask"),
        ("Tag", "tag"),
        ("Answer a question", "qa"),
        ("Labels of your choice", "zero-shot"),
    ],
)
def test_every_parameter_is_described(title: str, route: RouteName) -> None:
    page = (ROOT / "docs/http.md").read_text(encoding="utf8")
    table = TABLE.search(page, page.index(f"## {title}\n"))
    assert table
    names = [name for row in table[1].splitlines() for name in re.findall(r"`(\w+)`", row.split("|")[1])]
    assert sorted(names) == sorted(ROUTES[route].parameters.model_fields)


BLOCKS = re.findall(r"^```python\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
PROGRAMS = [code for code in BLOCKS if "models/starter" in code]


@pytest.mark.parametrize("code", PROGRAMS)
def test_every_program_on_the_starter_runs(code: str) -> None:
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr


def test_graphs_alone_give_the_logits_of_the_service() -> None:
    code = next(code for code in PROGRAMS if "onnxruntime" in code)
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    logits = [float(logit) for logit in ran.stdout.strip("[]\n").split()]
    predictor = Predictor(ROOT / "models/starter")
    asked = predictor.answer("sentiment", ["A gripping, beautifully shot film."], {"function_to_apply": "none"})
    scores = {label["label"]: label["score"] for label in asked[0]}
    temperature = json.loads((ROOT / "models/starter/bundle.json").read_text())["heads"]["sentiment"]["temperature"]
    assert [logit / temperature for logit in logits] == pytest.approx([scores["negative"], scores["positive"]], abs=0.1)


def test_the_page_of_settings_is_what_the_service_has() -> None:
    assert (ROOT / "docs/settings.md").read_text(encoding="utf8") == settings_page()


def test_every_link_leads_somewhere() -> None:
    pages = [
        page for page in ROOT.rglob("*.md") if not any(part.startswith(".") for part in page.relative_to(ROOT).parts)
    ]
    assert len(pages) > 10
    for page in pages:
        for link in re.findall(r'(?:\]\(|src(?:set)?=")(?!http)([^)"\s]+)[)"]', page.read_text(encoding="utf8")):
            file, _, anchor = link.partition("#")
            linked = page.parent / file if file else page
            assert linked.exists(), (page, link)
            assert not anchor or anchor in anchors(linked), (page, link)


PATH = re.compile(r"`((?:models|service|training|kernels|deploy|docs|dev)/[\w./-]*\w/?|tests/[\w./-]*\w/?)`")
MADE_UP = {"models/mytask.py", "deploy/kubernetes/overlays/mine/kustomization.yaml"}


@pytest.mark.parametrize("path", sorted(set(PATH.findall(TEXT)) - MADE_UP))
def test_every_named_file_exists(path: str) -> None:
    assert (ROOT / path).exists()


def anchors(page: Path) -> set[str]:
    """Return the names that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
