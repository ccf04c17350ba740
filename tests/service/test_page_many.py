"""If this breaks, the playground reads a table wrongly, loses rows of it, or gives them the answers of others."""

import csv
import io
import json
from pathlib import Path

import pytest

from tests.service.chromium import Page
from tests.service.relay import Canned, Relay
from tests.service.serving import Served

TEXTS = ["plain", 'a "quoted", text', "two\nlines", "=1+1", "é 🙂;\t'", "<img src=x onerror=hacked=1>", " blank "]
LABELS = ["positive", "negative"]
SAVE = "window.saved = []; download = (name, type, text) => saved.push(text);"


def write_csv(rows: list[list[str]], delimiter: str = ",", end: str = "\r\n") -> str:
    out = io.StringIO()
    csv.writer(out, delimiter=delimiter, lineterminator=end).writerows(rows)
    return out.getvalue()


def finish(page: Page, text: str, says: str = "Finished.") -> tuple[str, list[dict[str, str]]]:
    """Send rows; return what was said, and the rows of the download."""
    page.run(
        f"{SAVE} $('many').open = true; $('many-text').value = {json.dumps(text)}; loadTable($('many-text').value)"
    )
    page.click("#many-start")
    said = page.said(says)
    page.click("#many-results button")
    return said, saved(page, ";" if ";" in text.partition("\n")[0] else ",")


def saved(page: Page, delimiter: str = ",") -> list[dict[str, str]]:
    """Return the rows of the last download."""
    return list(
        csv.DictReader(io.StringIO(page.run("saved.at(-1)").removeprefix("\ufeff"), newline=""), delimiter=delimiter)
    )


@pytest.mark.parametrize("form", ["csv", "semicolon", "tsv", "json"])
def test_each_row_gets_its_own_answer(page: Page, served: Served, form: str) -> None:
    rows = [[text, LABELS[index % 2], str(index)] for index, text in enumerate(TEXTS * 3)]
    names = ["Text", "label", "number"]
    text = {
        "csv": write_csv([names, *rows]),
        "semicolon": write_csv([names, *rows], ";", "\n"),
        "tsv": write_csv([names, *rows], "\t", "\n"),
        "json": "\n\n".join(json.dumps(dict(zip(names, row, strict=True))) for row in rows),
    }[form]
    page.open(served.url).answered()
    said, found = finish(page, text)
    assert [[row[name] for name in names] for row in found] == rows
    best = [served.answer("/classify", each)[0][0] for each in TEXTS] * 3
    assert [row["prediction"] for row in found] == [each["label"] for each in best]
    assert [float(row["score"]) for row in found] == pytest.approx([each["score"] for each in best], abs=1e-4)
    right = sum(row[1] == each["label"] for row, each in zip(rows, best, strict=True))
    assert f"({right} of {len(rows)})" in said and page.run("typeof hacked") == "undefined"


@pytest.mark.parametrize(
    ("text", "kind", "rows"),
    [
        ("Hello, world\nSecond; line", "lines", [["Hello, world"], ["Second; line"]]),
        ('text\n"a\nb"\n', "CSV", [["a\nb"]]),
        ("\n\n", None, None),
        ("text,label\r\n,\r\na,b", "CSV", [["a", "b"]]),
    ],
)
def test_a_format_is_recognized(page: Page, served: Served, text: str, kind: str | None, rows: object) -> None:
    page.open(served.url).answered()
    page.run(f"loadTable({json.dumps(text)})")
    assert page.run("job.table && [job.table.kind, job.table.rows]") == (rows and [kind, rows])


def test_a_file_is_dropped_and_its_answers_come_as_a_file(page: Page, served: Served, tmp_path: Path) -> None:
    page.open(f"{served.url}/#qa").answered()
    given = "new File(['question,context\\nWho?,Clara lives.'], 'q.csv')"
    page.run(f"window.data = new DataTransfer(); data.items.add({given})")
    page.run("$('many').open = true")
    for _ in range(2):
        page.run(
            "$('many').dispatchEvent(new DragEvent('drop', {dataTransfer: data, cancelable: true, bubbles: true}))"
        )
        page.said("q.csv: 1 row, read as CSV")
    page.call("Page.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    page.click("#many-start")
    page.said("Finished.")
    page.click("#many-results button")
    page.run("new Promise((done) => setTimeout(done, 500))")
    (row,) = csv.DictReader((tmp_path / "answers.csv").read_text().splitlines())
    assert row["prediction"] == served.answer("/qa", {"question": "Who?", "context": "Clara lives."})["answer"]


def test_a_row_at_fault_is_found_and_the_others_are_answered(page: Page, served: Served) -> None:
    page.open(f"{served.url}/#fill-mask").answered()
    texts = [f"text {number} [MASK]" for number in range(11)]
    texts[6] = "no mask"
    _, found = finish(page, "\n".join(texts))
    assert [bool(row["prediction"]) for row in found] == [number != 6 for number in range(11)]
    assert "[MASK]" in found[6]["error"] and [row["error"] for row in found if row["error"]] == [found[6]["error"]]


def test_a_busy_service_and_a_broken_proxy_are_asked_again(page: Page, front: Relay) -> None:
    page.open(front.url).answered()
    busy = Canned(429, '{"title": "Busy", "detail": "full"}', {"Content-Type": "application/json", "Retry-After": "1"})
    front.canned["/classify"] = [busy, Canned(502, "<html>")]
    before = len(front.asked)
    _, found = finish(page, "\n".join(f"text {number}" for number in range(20)))
    sizes = [len(json.loads(body)["inputs"]) for path, body, _ in front.asked[before:] if path == "/classify"]
    assert sizes == [8, 8, 8, 8, 4] and all(row["prediction"] for row in found)


def test_a_stopped_run_goes_on_where_it_stopped(page: Page, front: Relay) -> None:
    page.open(front.url).answered()
    wait = {"Content-Type": "application/json", "Retry-After": "300"}
    page.run(f"{SAVE} $('many').open = true; loadTable('a\\nb\\nc\\n'.repeat(4))")
    front.canned["/classify"] = [Canned(503, '{"title": "Busy", "detail": "draining"}', wait)]
    page.click("#many-start")
    page.said("Trying again in 300 s")
    page.click("#many-stop")
    page.said("Start goes on where it stopped")
    page.click("#many-start")
    page.said("Finished.")
    page.click("#many-results button")
    assert len(page.run("saved[0]").strip().split("\r\n")) == 13


def test_answers_of_one_head_are_never_those_of_another(page: Page, served: Served) -> None:
    page.open(served.url).answered()
    _, first = finish(page, "a\nb")
    page.write("#head", "topic")
    page.write("#p-top_k", "1")
    page.run("$('many-results').replaceChildren(); $('many-state').textContent = ''")
    page.click("#many-start")
    page.said("Finished.")
    page.click("#many-results button")
    second = saved(page)
    expected = [served.answer("/classify/topic", each, top_k=1)[0] for each in "ab"]
    assert [row["prediction"] for row in second] == [each[0]["label"] for each in expected]
    assert [len(json.loads(row["answer"])) for row in second] == [1, 1]
    assert [row["prediction"] for row in first] == [served.answer("/classify", each)[0][0]["label"] for each in "ab"]


def test_a_parameter_at_fault_stops_all_rows_at_once(page: Page, front: Relay) -> None:
    page.open(front.url).answered()
    page.write("#p-top_k", "0")
    before = len(front.asked)
    page.run("$('many').open = true; loadTable('a\\n'.repeat(40))")
    page.click("#many-start")
    page.said("parameters.top_k: is 0")
    assert [path for path, _, _ in front.asked[before:]] == ["/classify"]
