"""If this breaks, a correction is lost, is kept twice, or teaches a head something that its author did not mean."""

import json
from pathlib import Path
from urllib.parse import quote

from tests.service.chromium import Page
from tests.service.relay import Canned, Relay
from tests.service.serving import Served
from training.text.examples import QuestionExample, SpannedText, read_examples

JSON = {"Content-Type": "application/json", "X-Bundle": "tiny/1.2.3"}
SHOWN = "[...document.querySelectorAll('#corrections li')].map((each) => each.textContent)"


def correct(page: Page, right: str) -> None:
    page.run(f"$('right').closest('details').open = true; $('right').value = {json.dumps(right)}")
    page.click("#correct > button")


def kept(page: Page, file: Path, head: str) -> Path:
    file.write_text(page.run(f"linesOf('{head}')"))
    return file


def test_a_label_must_be_chosen(page: Page, served: Served) -> None:
    page.open(f"{served.url}/#classify/topic").answered()
    assert page.run("$('right').value") == ""
    page.click("#correct > button")
    page.until("$('right-fault').textContent === 'Choose the right label.'")
    assert page.run("corrections().length") == 0
    correct(page, "sea")
    page.said("Correction kept")
    assert page.run("$('right-fault').textContent") == ""


def test_the_last_correction_of_a_text_is_the_one_that_counts(page: Page, served: Served, tmp_path: Path) -> None:
    page.open(f"{served.url}/#classify/topic?text=A+ship").answered()
    for right in ("law", "law", "sea"):
        correct(page, right)
    page.click("#tab-pair")
    page.until("state.last?.task === 'pair' && document.querySelector('#correct')")
    correct(page, "neutral")
    page.until("corrections().length === 2")
    (found,) = read_examples(kept(page, tmp_path / "topic.jsonl", "topic"), "classify")
    assert (found.text, found.label) == ("A ship", "sea")


def test_an_entity_over_two_lines_is_kept_as_the_text_has_it(page: Page, front: Relay, tmp_path: Path) -> None:
    text = "🙂 New\nYork and  New York (a+b)"
    places = [(2, 10), (25, 30)]
    spans = [{"entity_group": "LOC", "score": 0.9, "word": text[s:e], "start": s, "end": e} for s, e in places]
    assert [span["word"] for span in spans] == ["New\nYork", "(a+b)"]
    front.lasting["/tag"] = Canned(200, json.dumps(spans), JSON)
    page.open(f"{front.url}/#tag/ner?text={quote(text)}").answered()
    assert page.run("$('right').value") == "New York = LOC\n(a+b) = LOC"
    page.click("#correct > button")
    page.said("Correction kept")
    (found,) = read_examples(kept(page, tmp_path / "ner.jsonl", "ner"), "tag")
    assert found == SpannedText(text, [(2, 10, "LOC"), (25, 30, "LOC")])


def test_an_answer_over_two_lines_is_kept_as_the_context_has_it(page: Page, front: Relay, tmp_path: Path) -> None:
    context = "One 🙂\nday. Two\n\ndays."
    answer = {"answer": "Two\n\ndays", "score": 0.9, "start": 11, "end": 20}
    assert context[11:20] == answer["answer"]
    front.lasting["/qa"] = Canned(200, json.dumps(answer), JSON)
    page.open(f"{front.url}/#qa/qa?question=When%3F&context={quote(context)}").answered()
    assert page.run("$('right').value") == "Two days"
    page.click("#correct > button")
    page.said("Correction kept")
    (found,) = read_examples(kept(page, tmp_path / "qa.jsonl", "qa"), "qa")
    assert isinstance(found, QuestionExample)
    assert (found.answers, found.starts) == (["Two\n\ndays"], [11])


def test_single_words_are_not_offered_as_entities(page: Page, front: Relay) -> None:
    word = {"entity": "B-PER", "score": 0.9, "index": 1, "word": "Ann", "start": 0, "end": 3}
    front.lasting["/tag"] = Canned(200, json.dumps([word]), JSON)
    page.open(f"{front.url}/#tag/ner?text=Ann+met+Bob&aggregation_strategy=none").answered("B-PER")
    assert page.run("$('correct')") is None


def test_a_full_or_blocked_storage_is_explained_and_the_correction_stays_in_the_form(
    page: Page, served: Served
) -> None:
    page.open(f"{served.url}/#classify/topic").answered()
    page.run("Storage.prototype.setItem = () => { throw new DOMException('full', 'QuotaExceededError'); }")
    correct(page, "sea")
    assert "full or blocked" in page.said("The browser does not store the correction")
    assert page.run("$('right').value") == "sea"


def test_two_tabs_show_and_remove_the_same_corrections(page: Page, served: Served) -> None:
    page.open(f"{served.url}/#classify/topic?text=one").answered()
    correct(page, "sea")
    page.said("Correction kept")
    first = page.run("localStorage.getItem('corrections')")
    second = page.run("localStorage.getItem('corrections').replace('one', 'two')")
    both = json.dumps(json.loads(second) + json.loads(first))
    page.run(
        "new Promise((done) => { const frame = document.createElement('iframe'); frame.onload = () => done(); "
        "document.body.append(frame); })"
    )
    page.run(f"document.querySelector('iframe').contentWindow.localStorage.setItem('corrections', {json.dumps(both)})")
    page.until(f"{SHOWN}.length === 2")
    stale = "[...document.querySelectorAll('#corrections li button')]"
    page.run(f"window.stale = {stale}[1]; localStorage.setItem('corrections', {json.dumps(first)}); stale.click()")
    assert page.run("corrections()") == []  # the one that was shown is removed, at any place in the list


def test_the_focus_stays_in_the_list_when_a_correction_is_removed(page: Page, served: Served) -> None:
    page.open(f"{served.url}/#classify/topic").answered()
    for text in ("one", "two", "three"):
        page.write("#in-text", text)
        page.click("#run")
        page.until(f"state.last?.body.inputs === '{text}' && $('result').ariaBusy === 'false'")
        correct(page, "sea")
    page.run("$('corrections').closest('details').open = true")
    remove = "document.querySelectorAll('#corrections li button')"
    for index, next_one in ((1, "Remove correction 2"), (1, "Remove correction 1"), (0, None)):
        page.run(f"{remove}[{index}].focus()")
        page.press("Enter")
        assert page.run("document.activeElement.getAttribute('aria-label')") == next_one
    assert page.run("document.activeElement.id") == "corrections"
