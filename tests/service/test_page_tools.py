"""If this breaks, code that the playground shows does not run, a card is wrong, or an explanation misleads."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from models.task import HeadSpec
from models.tokenizer import Tokenizer
from tests.programs import program
from tests.service.bundles import write_bundle
from tests.service.chromium import Page
from tests.service.relay import Canned, Relay
from tests.service.serving import Served, serving
from tests.service.test_routes import same
from training.text.examples import Example, PairExample, QuestionExample, SpannedText, TextExample, read_examples

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


def test_the_card_shows_what_the_heads_route_answers(page: Page, served: Served) -> None:
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


MARKS = "[...document.querySelectorAll('#why mark')].map((each) => [each.textContent, each.title, each.className])"


def ask_why(page: Page) -> None:
    page.click("#why button")
    page.until("document.querySelector('#why table')")


def test_why_shades_words_and_says_their_influence(page: Page, front: Relay) -> None:
    text = "A 🙂 <b>good</b> film"
    front.lasting["/explain/sentiment"] = Canned(200, explained(text), JSON)
    page.open(f"{front.url}/#classify?text={quote(text)}").answered()
    ask_why(page)
    assert page.run(MARKS) == [
        ["A", "A: +0.000", "h0 reason for"],
        ["🙂", "🙂: −0.200", "h1 reason against"],
        ["<b>good</b>", "<b>good</b>: +0.410", "h0 reason for"],
    ]
    rows = page.run("[...document.querySelectorAll('#why tbody tr')].map((each) => each.innerText.split(/\\s+/))")
    assert rows == [["<b>good</b>", "for", "+0.410"], ["🙂", "against", "−0.200"], ["A", "for", "+0.000"]]
    asked = [json.loads(body) for path, body, _ in front.asked if path == "/explain/sentiment"]
    assert asked == [{"inputs": text}]


@pytest.mark.parametrize(
    "route",
    ["classify/topic?text=Ann+left.", "pair/nli?text=Ann+left.&text_pair=Bob", "qa/qa?question=Who%3F&context=Ann"],
)
def test_why_shows_what_the_service_explains(page: Page, served: Served, route: str) -> None:
    page.open(f"{served.url}/#{route}").answered()
    ask_why(page)
    head = route.partition("/")[2].partition("?")[0]
    found = served.client.post(f"/explain/{head}", json=page.run("body()")).json()
    signs = {True: "−", False: "+"}
    shown = [title for _, title, _ in page.run(MARKS)]
    assert shown == [f"{e['word']}: {signs[e['influence'] < 0]}{abs(e['influence']):.3f}" for e in found["words"]]
    assert len(shown) >= 2
    assert f"“{found['label'] or 'no answer'}”" in page.run("document.querySelector('#why h3').textContent")


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (Canned(422, '{"title": "Wrong", "detail": "too many words"}', JSON), "too many words"),
        (Canned(200, "[]", JSON), "does not understand the explanation"),
        (Canned(502, "<html>"), "not from the service"),
    ],
)
def test_an_explanation_that_fails_says_so(page: Page, front: Relay, answer: Canned, says: str) -> None:
    front.canned["/explain/sentiment"] = [answer]
    page.open(front.url).answered()
    page.until("document.querySelector('#why button')")
    page.click("#why button")
    page.until(f"$('why').textContent.includes({json.dumps(says)})")


@pytest.mark.parametrize("route", ["tag/ner", "fill-mask/fill-mask", "zero-shot/nli"])
def test_why_is_not_offered_where_the_service_does_not_explain(page: Page, served: Served, route: str) -> None:
    page.open(f"{served.url}/#{route}").answered()
    assert page.run("document.querySelector('#why button')") is None


def test_a_persons_own_labels_are_sent_and_kept_in_the_link(page: Page, served: Served) -> None:
    page.open(f"{served.url}/#zero-shot").answered()
    page.write("#in-candidate_labels", "sea, law")
    page.click("#run")
    page.until("document.querySelectorAll('.bars .name').length === 2")
    sent = page.run("state.last.body")
    assert sent["parameters"] == {"candidate_labels": ["sea", "law"]}
    best = served.client.post("/zero-shot", json=sent).json()[0]["label"]
    assert page.run("document.querySelector('.bars .first').textContent") == best
    assert "candidate_labels=sea" in page.link()
    page.write("#in-candidate_labels", " ")
    page.click("#run")
    page.said("candidate_labels")
    assert page.run("document.activeElement.id") == "in-candidate_labels"


QA = {"question": "Who?", "context": "🙂 Ann met Bob. Ann left."}


@pytest.mark.parametrize(
    ("route", "texts", "right", "example"),
    [
        ("classify/topic", [HARD], "sea", TextExample(HARD, "sea")),
        ("pair/nsp", ["a", HARD], "notNext", PairExample("a", HARD, "notNext")),
        (
            "tag/ner",
            ["🙂 Ann = Bob met Bob"],
            "Ann = PER\nBob = LOC",
            SpannedText("🙂 Ann = Bob met Bob", [(2, 5, "PER"), (8, 11, "LOC")]),
        ),
        ("qa/qa", list(QA.values()), "Bob", QuestionExample("", QA["context"], "Who?", ["Bob"], [10])),
        ("qa/qa", list(QA.values()), "", QuestionExample("", QA["context"], "Who?", [], [])),
    ],
)
def test_training_reads_corrections_as_they_were_meant(
    page: Page, served: Served, tmp_path: Path, route: str, texts: list[str], right: str, example: Example
) -> None:
    page.open(f"{served.url}/#{route}").answered()
    page.run(f"drawExample({json.dumps(texts)}); changed(); $('result').replaceChildren(); run()")
    page.answered()
    page.write("#right", right)
    page.run(f"$('right').value = {json.dumps(right)}")
    page.click("#correct button")
    page.said("Correction kept")
    page.reload()
    page.until("document.querySelector('#corrections li')")
    page.run("window.saved = []; download = (name, type, text) => saved.push(text)")
    page.click("#corrections .row button")
    file = tmp_path / "corrections.jsonl"
    file.write_text(page.run("saved[0]"))
    task = route.partition("/")[0]
    (found,) = read_examples(file, task)  # type: ignore[call-overload]
    if isinstance(found, QuestionExample):
        found = QuestionExample("", found.context, found.question, found.answers, found.starts)
    assert found == example
    page.click("#corrections li button")
    page.until("!document.querySelector('#corrections li')")


OTHERS = {
    "topics": HeadSpec("classify", ["art", "law", "sea"], problem_type="multi_label_classification"),
    "stars": HeadSpec("classify", ["score"], problem_type="regression"),
    "likeness": HeadSpec("pair", ["score"], problem_type="regression"),
}
"""Heads that do not give one label."""


@pytest.fixture(scope="module")
def others(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(write_bundle(tmp_path_factory.mktemp("others") / "tiny", tokenizer, OTHERS), lanes=1) as served:
        yield served


def correct(page: Page, right: str) -> None:
    page.write("#right", right)
    page.run(f"$('right').value = {json.dumps(right)}")
    page.click("#correct button")


@pytest.mark.parametrize(
    ("route", "right", "label"),
    [
        ("classify/topics", "sea, art", ("sea", "art")),
        ("classify/topics", "", ()),
        ("classify/stars", "3", 3.0),
        ("pair/likeness", "-0.5", -0.5),
    ],
)
def test_corrections_may_be_several_labels_or_a_number(
    page: Page, others: Served, tmp_path: Path, route: str, right: str, label: object
) -> None:
    page.open(f"{others.url}/#{route}").answered()
    correct(page, right)
    page.said("Correction kept")
    (tmp_path / "right.jsonl").write_text(page.run(f"linesOf('{route.partition('/')[2]}')"))
    (found,) = read_examples(tmp_path / "right.jsonl", route.partition("/")[0])  # type: ignore[call-overload]
    assert found.label == label


@pytest.mark.parametrize(
    ("route", "right", "says"),
    [("classify/topics", "sea, war", "war is not a label"), ("classify/stars", "three", "is not a number")],
)
def test_a_correction_that_the_head_cannot_learn_says_why(
    page: Page, others: Served, route: str, right: str, says: str
) -> None:
    page.open(f"{others.url}/#{route}").answered()
    correct(page, right)
    page.said(says)
    assert page.run("corrections().length") == 0


def test_texts_are_ranked_best_first(page: Page, others: Served) -> None:
    page.open(f"{others.url}/#rerank").answered()
    page.write("#in-query", "Where is Berlin?")
    page.write("#in-texts", "Cats sleep.\n\nBerlin lies in Germany.\nA dog")
    page.click("#run")
    page.until("state.last?.body.texts[0] === 'Cats sleep.'")
    sent = {"query": "Where is Berlin?", "texts": ["Cats sleep.", "Berlin lies in Germany.", "A dog"]}
    assert page.run("state.last.body") == sent
    ranked = [sent["texts"][each["index"]] for each in others.client.post("/rerank", json=sent).json()]
    assert page.run("[...document.querySelectorAll('.bars .name')].map((each) => each.textContent)") == ranked
    assert page.run("$('many').hidden")


@pytest.mark.parametrize(
    ("route", "right", "says"),
    [("tag/ner", "Nobody = PER", "is not in the text"), ("qa/qa", "xyz", "does not have this")],
)
def test_an_impossible_correction_says_why(page: Page, served: Served, route: str, right: str, says: str) -> None:
    page.open(f"{served.url}/#{route}").answered()
    page.write("#right", right)
    page.run(f"$('right').value = {json.dumps(right)}")
    page.click("#correct button")
    page.said(says)
    assert page.run("corrections().length") == 0


@pytest.mark.parametrize(("number", "written"), [("3", "3.0"), ("-0.5", "-0.5"), ("1000000000000000000000", "1e+21")])
def test_a_corrected_number_stays_a_number(page: Page, served: Served, number: str, written: str) -> None:
    page.open(served.url).answered()
    assert page.run(f"rightNumber({json.dumps(number)})") == written


def test_two_heads_are_compared(page: Page, front: Relay) -> None:
    page.open(f"{front.url}/#classify/sentiment").answered()
    page.click("#compare summary")
    page.click("#compare-now")
    page.until("document.querySelectorAll('#compared section').length === 2")
    assert page.run("$('verdict').textContent").startswith("They differ")
    page.write("#rival", "sentiment")
    page.write("#version", "tiny/1.2.3")
    page.click("#compare-now")
    page.until("$('verdict').textContent.startsWith('Both answer ')")
    assert next(each for path, _, each in reversed(front.asked) if "X-Bundle" in each)["X-Bundle"] == "tiny/1.2.3"
    page.write("#version", "tiny/9")
    page.click("#compare-now")
    page.said("there are tiny/1.2.3")
