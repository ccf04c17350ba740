"""If this breaks, code that the playground shows does not run, a card is wrong, or an explanation misleads."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.programs import npm_packages, program
from tests.service.chromium import Page
from tests.service.relay import Canned, Relay
from tests.service.serving import Served, serving
from tests.service.test_routes import same

HARD = 'It\'s "so" $HOME `x` \\n {a} é 🙂\nnew <b>line</b>!'
JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize("language", ["curl", "python", "javascript"])
def test_the_code_gives_the_answer_of_the_page_and_has_no_key(page: Page, bundle: Path, language: str) -> None:
    with serving(bundle, lanes=1, api_key="s3cret") as served:
        page.open(f"{served.url}/#pair/nsp")
        page.said("This service needs an API key")
        page.write("#key", "s3cret")
        page.run("$('key').dispatchEvent(new Event('change'))")
        page.answered()
        page.write("#in-text", HARD)
        page.write("#in-text_pair", "True")
        page.write("#p-top_k", "1")
        page.click(f"#tab-{language}")
        code = page.run("$('code').textContent")
        assert "s3cret" not in code
        start = {
            "curl": ["bash", "-c"],
            "python": [sys.executable, "-c"],
            "javascript": ["node", "--input-type=module", "--eval"],
        }[language]
        program(start[0], package="nodejs")
        environment = {**os.environ, "KEY": "s3cret"}
        ran = subprocess.run([*start, code], capture_output=True, text=True, env=environment, timeout=60)
        assert ran.returncode == 0, ran.stderr
        printed = ran.stdout.replace("'", '"') if language == "python" else ran.stdout
        assert same(json.loads(printed), served.answer("/pair/nsp", {"text": HARD, "text_pair": "True"}, top_k=1))


def test_the_card_tells_what_the_heads_route_tells(page: Page, served: Served) -> None:
    page.open(f"{served.url}/#tag").answered()
    (head,) = [each for each in served.client.get("/heads").json()["heads"] if each["name"] == "ner"]
    card = page.run("$('card').textContent")
    for told in ["POST /tag/ner", "B-PER", "64 tokens", "5000 characters", "8 inputs", "tiny/1.2.3", head["sha256"]]:
        assert told in card


def explained(text: str) -> str:
    words = [("A", 0, 1, 0.0), ("🙂", 2, 3, -0.2), ("<b>good</b>", 4, 15, 0.41)]
    assert all(text[start:end] == word for word, start, end, _ in words)
    found = [{"field": "inputs", "word": w, "start": s, "end": e, "influence": i} for w, s, e, i in words]
    return json.dumps({"label": "positive", "score": 0.98, "words": found})


def test_why_shades_words_and_says_their_influence(page: Page, front: Relay) -> None:
    text = "A 🙂 <b>good</b> film"
    front.lasting["/openapi.json"] = Canned(200, '{"paths": {"/explain/{head}": {}}}', JSON)
    front.lasting["/explain/sentiment"] = Canned(200, explained(text), JSON)
    page.open(f"{front.url}/#classify").answered()
    page.write("#in-text", text)
    page.click("#run")
    page.until(f"state.last?.body.inputs === {json.dumps(text)} && document.querySelector('#why button')")
    page.click("#why button")
    page.until("document.querySelector('#why table')")
    marks = "[...document.querySelectorAll('#why mark')].map((each) => [each.textContent, each.title, each.className])"
    assert page.run(marks) == [
        ["A", "A: +0.000", "h0 reason for"],
        ["🙂", "🙂: −0.200", "h1 reason against"],
        ["<b>good</b>", "<b>good</b>: +0.410", "h0 reason for"],
    ]
    rows = page.run("[...document.querySelectorAll('#why tbody tr')].map((each) => each.innerText.split(/\\s+/))")
    assert rows == [["<b>good</b>", "for", "+0.410"], ["🙂", "against", "−0.200"], ["A", "for", "+0.000"]]
    page.run((npm_packages(Path(__file__).parent / "npm") / "node_modules/axe-core/axe.min.js").read_text())
    assert page.run("axe.run('#why').then(({violations}) => violations.map((each) => each.id))") == []
    asked = [json.loads(body) for path, body, _ in front.asked if path == "/explain/sentiment"]
    assert asked == [{"inputs": text}]


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (Canned(422, '{"title": "Wrong", "detail": "too many words"}', JSON), "too many words"),
        (Canned(200, "[]", JSON), "does not understand the explanation"),
        (Canned(502, "<html>"), "not from the service"),
    ],
)
def test_an_explanation_that_fails_says_so(page: Page, front: Relay, answer: Canned, says: str) -> None:
    front.lasting["/openapi.json"] = Canned(200, '{"paths": {"/explain/{head}": {}}}', JSON)
    front.canned["/explain/sentiment"] = [answer]
    page.open(front.url).answered()
    page.until("document.querySelector('#why button')")
    page.click("#why button")
    page.until(f"$('why').textContent.includes({json.dumps(says)})")


def test_why_is_not_offered_where_the_service_does_not_explain(page: Page, front: Relay) -> None:
    front.lasting["/openapi.json"] = Canned(200, '{"paths": {}}', JSON)
    page.open(front.url).answered()
    page.until("state.heads.length")
    assert page.run("learnWhy().then(() => document.querySelector('#why button'))") is None
