"""If this breaks, the playground misreads a file as spreadsheets write it, or writes one that they misread."""

import codecs
import csv
import io
import json
from pathlib import Path

import pytest

from tests.service.chromium import Page
from tests.service.relay import Canned, Relay
from tests.service.serving import Served
from tests.service.test_page_many import SAVE, finish, saved

JSON = {"Content-Type": "application/json"}
ROWS = [["text", "label"], ["Schön, “sehr” gut; ñ 🙂", "positive"], ['two\nlines and "quotes"', "negative"]]


def written(delimiter: str = ",") -> str:
    out = io.StringIO(newline="")
    csv.writer(out, delimiter=delimiter).writerows(ROWS)
    return out.getvalue()


def choose(page: Page, file: Path) -> None:
    """Choose a file, as the dialog of the browser does."""
    page.run("$('many').open = true")
    control = page.call("Runtime.evaluate", expression="$('many-file')")["result"]["objectId"]
    page.call("DOM.setFileInputFiles", files=[str(file)], objectId=control)


def state(page: Page) -> str:
    found: str = page.run("$('many-state').textContent")
    return found


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("utf8.csv", codecs.BOM_UTF8 + written().encode()),
        ("semicolon.csv", codecs.BOM_UTF8 + written(";").encode()),
        ("declared.csv", ("sep=;\r\n" + written(";")).encode()),
        ("unicode.txt", codecs.BOM_UTF16_LE + written("\t").encode("utf-16-le")),
        ("big.txt", codecs.BOM_UTF16_BE + written("\t").encode("utf-16-be")),
    ],
    ids=["utf8", "semicolon", "declared", "utf16", "utf16-big"],
)
def test_a_file_of_a_spreadsheet_is_read(page: Page, served: Served, tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    page.open(served.url).answered()
    choose(page, tmp_path / name)
    page.said(f"{name}: 2 rows, read as")
    assert page.run("[job.table.names, ...job.table.rows]") == ROWS


@pytest.mark.parametrize(
    ("name", "content"),
    [("old.csv", "text\r\nSchön\r\n".encode("cp1252")), ("book.xlsx", b"PK\x03\x04\xff\xfe\x00")],
    ids=["cp1252", "workbook"],
)
def test_a_file_that_is_not_unicode_is_refused_until_it_is_saved_again(
    page: Page, served: Served, tmp_path: Path, name: str, content: bytes
) -> None:
    (tmp_path / name).write_bytes(content)
    page.open(served.url).answered()
    choose(page, tmp_path / name)
    assert f"{name} is not text in UTF-8" in page.said("save it as “CSV UTF-8”")
    (tmp_path / name).write_text("text\nSchön\n")
    page.run(
        "$('many-file').showPicker = () => {}; $('many-file').click()"
    )  # the same file, so its name does not change
    choose(page, tmp_path / name)
    page.said(f"{name}: 1 row, read as CSV")


@pytest.mark.parametrize(
    ("text", "names", "rows"),
    [
        ("text,label,,\r\na,b,,\r\n,,,\r\n", ["text", "label"], [["a", "b"]]),
        ("text,,label\na,1,b\n", ["text", "column 2", "label"], [["a", "1", "b"]]),
        ('text\tlabel\n"not closed\tb\n', ["text", "label"], [['"not closed', "b"]]),
        ('text\tlabel\n"closed\ttab"\tb\n', ["text", "label"], [["closed\ttab", "b"]]),
        ('text,label\nsay "hi",b\n"",b', ["text", "label"], [['say "hi"', "b"], ["", "b"]]),
        ("text,label\na,", ["text", "label"], [["a", ""]]),
    ],
)
def test_cells_are_those_of_the_file(page: Page, served: Served, text: str, names: object, rows: object) -> None:
    page.open(served.url).answered()
    page.run(f"loadTable({json.dumps(text)})")
    assert page.run("[job.table?.names, job.table?.rows]") == [names, rows], state(page)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('text,label\n\n"not closed,positive\nb,negative\n', "The quotation marks in row 3 do not match"),
        ('text,label\n"a" b,positive\n', "The quotation marks in row 2 do not match"),
        ("text,label\n\na\n", "Row 3 has 1 cell, but the first line names 2 columns"),
        ("text,label\na,b,c", "Row 2 has 3 cells"),
        ("text,text\na,b", "Two columns have the same name"),
        ('{"text": "a"}\n\n{oops', "Line 3 is not a JSON object"),
        ("text,label,label\na,b,c\n", "Two columns have the same name: label."),
    ],
)
def test_a_broken_table_is_refused_and_never_guessed(page: Page, served: Served, text: str, says: str) -> None:
    page.open(served.url).answered()
    page.run(f"$('many').open = true; loadTable({json.dumps(text)})")
    page.said(says)
    assert page.run("job.table") is None and page.run("$('many-start').disabled")


def test_a_table_without_usual_names_is_read_and_the_first_line_is_pointed_out(
    page: Page, served: Served, tmp_path: Path
) -> None:
    (tmp_path / "reviews.csv").write_text('Kommentar;Note\n"gut; sehr";1\nschlecht;2\n')
    page.open(served.url).answered()
    choose(page, tmp_path / "reviews.csv")
    said = page.said("reviews.csv: 2 rows, read as CSV ;. Columns: Kommentar, Note.")
    assert "If the first line is not names of columns, add a line with names" in said
    page.write("#column-text", "0")
    page.run(SAVE)
    page.click("#many-start")
    page.said("Finished.")
    page.click("#many-results button")
    best = [served.answer("/classify", text)[0][0]["label"] for text in ("gut; sehr", "schlecht")]
    assert [row["prediction"] for row in saved(page, ";")] == best


@pytest.mark.parametrize("separator", [",", ";"])
def test_the_answers_open_in_the_spreadsheet_that_wrote_the_texts(page: Page, served: Served, separator: str) -> None:
    page.open(served.url).answered()
    _, found = finish(page, written(separator))
    assert [[row["text"], row["label"]] for row in found] == ROWS[1:]
    file = page.run("saved[0]")
    assert file.startswith(
        f"\ufefftext{separator}label{separator}prediction"
    )  # Excel takes it for Windows-1252 otherwise
    page.run(f"loadTable({json.dumps(file)})")
    assert page.run("job.table.names")[0] == "text" and page.run("job.table.rows.map((row) => row[0])") == [
        row[0] for row in ROWS[1:]
    ]


def test_answers_that_are_answered_again_and_again_keep_their_columns_apart(page: Page, served: Served) -> None:
    page.open(served.url).answered()
    text = "text,label\r\na,positive\r\n"
    for _ in range(3):
        finish(page, text)
        text = page.run("saved[0]")
    names = next(csv.reader([text.partition("\r\n")[0]]))
    assert len(set(names)) == len(names) == 2 + 3 * 4


@pytest.mark.parametrize("form", ["spaces", "upper", "title"])
def test_a_label_counts_in_any_case_and_with_spaces(page: Page, served: Served, form: str) -> None:
    best = served.answer("/classify", "a")[0][0]["label"]
    label = {"spaces": f" {best} ", "upper": best.upper(), "title": best.title()}[form]
    page.open(served.url).answered()
    said, _ = finish(page, f"text,label\na,{label}\na,none\n")
    assert "(1 of 2). The head does not have the labels none." in said


def test_accents_of_a_label_count_in_either_encoding(page: Page, served: Served) -> None:
    page.open(served.url).answered()
    assert page.run(r"labelNamed('CAFE\u0301', ['cafe', 'caf\u00e9'])") == "café"
    assert page.run("labelNamed('a', ['A', 'a'])") == "a"


def test_a_new_table_ends_the_run_of_the_old_one(page: Page, front: Relay) -> None:
    page.open(front.url).answered()
    wait = Canned(503, '{"title": "Busy", "detail": "draining"}', {**JSON, "Retry-After": "300"})
    front.canned["/classify"] = [wait]
    page.run(f"{SAVE} $('many').open = true; loadTable('a\\nb')")
    page.click("#many-start")
    page.said("Trying again in 300 s")
    page.run("loadTable('c\\nd\\ne')")
    shown = (
        "[$('many-progress').hidden, $('many-stop').disabled, $('many-start').disabled, $('many-count').textContent]"
    )
    assert page.run(shown) == [True, True, False, ""]
    page.click("#many-start")
    page.said("Finished.")
    assert page.run(shown) == [True, True, False, "3 of 3 rows"]
    page.click("#many-results button")
    assert [row["text"] for row in saved(page)] == ["c", "d", "e"]


def test_answers_of_two_versions_are_never_in_one_file(page: Page, front: Relay) -> None:
    page.open(front.url).answered()
    answers = json.dumps([[{"label": "positive", "score": 0.9}]] * 8)
    front.canned["/classify"] = [Canned(200, answers, {**JSON, "X-Bundle": "tiny/0.9"})]
    page.run(f"{SAVE} $('many').open = true; loadTable('a\\n'.repeat(16))")
    page.click("#many-start")
    said = page.said("The service changed from tiny/0.9 to tiny/1.2.3")
    assert "goes on where it stopped" not in said
    before = len(front.asked)
    page.click("#many-start")
    page.said("Finished.")
    assert [path for path, _, _ in front.asked[before:]] == ["/classify", "/classify"]


def test_rows_that_fail_count_as_done(page: Page, served: Served) -> None:
    page.open(f"{served.url}/#fill-mask").answered()
    said, _ = finish(page, "no mask\nnone\n")
    assert "2 rows failed" in said and page.run("$('many-count').textContent") == "2 of 2 rows"


def test_a_file_that_is_dropped_anywhere_is_read_and_shown(page: Page, served: Served) -> None:
    page.open(served.url).answered()
    page.run("window.data = new DataTransfer(); data.items.add(new File(['text\\na'], 'a.csv'))")
    events = (
        "['dragover', 'drop'].map((name) => new DragEvent(name, {dataTransfer: data, cancelable: true, bubbles: true}))"
    )
    assert page.run(f"{events}.map((each) => document.querySelector('h1').dispatchEvent(each))") == [False, False]
    page.said("a.csv: 1 row")
    assert page.run("$('many').open")


def test_a_drop_where_no_file_is_read_says_so(page: Page, front: Relay) -> None:
    heads = front.client.get("/heads").json()
    heads["heads"] = [head | {"routes": [*head["routes"], f"/rerank/{head['name']}"]} for head in heads["heads"]]
    front.lasting["/heads"] = Canned(200, json.dumps(heads), JSON)
    page.open(f"{front.url}/#rerank").said("ready, 7 heads")
    page.until("state.task === 'rerank' && $('trouble').textContent")  # these heads cannot rank
    page.run("window.data = new DataTransfer(); data.items.add(new File(['text\\na'], 'a.csv'))")
    page.run("dispatchEvent(new DragEvent('drop', {dataTransfer: data, cancelable: true}))")
    page.said("Rerank does not read files")
    assert page.run("job.table") is None


def test_rows_without_labels_to_choose_from_stop_at_once(page: Page, front: Relay) -> None:
    page.open(f"{front.url}/#zero-shot").answered()
    page.write("#in-candidate_labels", "")
    page.run("$('many').open = true; loadTable('text,label\\na,b\\n')")
    before = len(front.asked)
    page.click("#many-start")
    page.said("candidate_labels")
    page.said("No row has a label.")
    assert [path for path, _, _ in front.asked[before:]] == ["/zero-shot"]
