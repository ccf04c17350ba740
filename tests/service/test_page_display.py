"""If this breaks, something on the page is drawn where nobody can read it: on a phone, on paper, in other colors."""

import json
from collections.abc import Iterator
from urllib.parse import quote

import pytest

from models.task import HeadSpec
from models.tokenizer import Tokenizer
from tests.service.bundles import write_bundle
from tests.service.chromium import Page
from tests.service.relay import Canned, Relay, relay
from tests.service.serving import Served, serving
from tests.service.test_page_tools import JSON, explained

TEXT = "A 🙂 <b>good</b> film"
HEBREW = "שלום לך, עולם!"
LUMINANCE = """(color) => {
  const [r, g, b] = color.match(/[\\d.]+/g).map(Number).map((c) => c / 255)
    .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}"""
"""As WCAG 2.2 defines it."""
CONTRASTS = f"""[...document.querySelectorAll('mark')].map((mark) => {{
  const {{ color, backgroundColor }} = getComputedStyle(mark);
  const [light, dark] = [color, backgroundColor].map({LUMINANCE}).sort((a, b) => b - a);
  return backgroundColor.startsWith('rgba') ? 0 : (light + 0.05) / (dark + 0.05);
}})"""
"""Of each mark; 0 if something shines through it."""


def emulate(page: Page, media: str = "", **features: str) -> None:
    named = [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]
    page.call("Emulation.setEmulatedMedia", media=media, features=named)


def explain(page: Page, front: Relay) -> None:
    front.lasting["/explain/sentiment"] = Canned(200, explained(TEXT), JSON)
    page.open(f"{front.url}/#classify?text={quote(TEXT)}").answered()
    page.click("#why button")
    page.until("document.querySelector('#why table')")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_marks_can_be_read_in_forced_colors(page: Page, front: Relay, scheme: str) -> None:
    emulate(page, forced_colors="active", prefers_color_scheme=scheme)
    explain(page, front)
    assert min(page.run(CONTRASTS)) >= 4.5
    assert page.run(
        "[...document.querySelectorAll('mark')].map((mark) => getComputedStyle(mark).borderBottomStyle)"
    ) == [
        "solid",
        "dashed",
        "solid",
    ]


def test_forced_colors_show_the_chosen_tab_the_bars_and_the_button(page: Page, served: Served) -> None:
    emulate(page, forced_colors="active", prefers_color_scheme="dark")
    page.open(served.url).answered()
    border = "getComputedStyle(document.querySelector('#tabs [aria-selected={}]')).borderBottomColor"
    assert page.run(border.format("true")) != page.run(border.format("false"))
    drawn = "getComputedStyle(document.querySelector('{}')).backgroundColor"
    assert page.run(drawn.format(".fill")) not in (page.run(drawn.format("body")), "rgba(0, 0, 0, 0)")
    assert page.run("getComputedStyle($('run')).borderTopWidth") == "1px"


def test_paper_is_white_and_shows_the_whole_text(page: Page, front: Relay) -> None:
    page.prefer("dark")
    explain(page, front)
    page.write("#in-text", "A line.\n" * 60)
    page.click("#run")
    page.until("state.last?.body.inputs.startsWith('A line') && $('result').ariaBusy === 'false'")
    emulate(page, "print", prefers_color_scheme="dark")
    assert page.run("getComputedStyle(document.body).backgroundColor") == "rgb(245, 246, 244)"
    hidden = "['in-text', 'code'].map((id) => $(id).scrollHeight - $(id).clientHeight)"
    assert max(page.run(hidden)) <= 0
    seen = "['tab-classify', 'result', 'tab-tag', 'run'].map((id) => $(id).checkVisibility())"
    assert page.run(seen) == [True, True, False, False]


def test_text_from_right_to_left_is_set_so(page: Page, served: Served) -> None:
    page.open(f"{served.url}/#qa?question={quote(HEBREW)}&context={quote(HEBREW)}").answered()
    assert (
        page.run("['in-question', 'in-context'].map((id) => getComputedStyle($(id)).unicodeBidi)") == ["plaintext"] * 2
    )
    right = """(() => {
      const node = [...document.querySelector('.passage').childNodes].at(-1), range = document.createRange();
      range.setStart(node, node.length - 1); range.setEnd(node, node.length);
      const last = range.getBoundingClientRect(), whole = document.querySelector('.passage').getBoundingClientRect();
      return last.left - whole.left < whole.right - last.right || [last, whole];
    })()"""
    page.resize(320)
    page.run(f"document.querySelector('.passage').replaceChildren({json.dumps(HEBREW)})")
    page.run("document.querySelector('.passage').style.width = 'max-content'")
    assert page.run(right) is True  # the exclamation mark ends the sentence, on the left


def test_cells_of_the_answers_do_not_overlap_on_a_phone(page: Page, served: Served) -> None:
    page.resize(320)
    page.open(served.url).answered()
    page.run("$('many').open = true; loadTable('text,label\\nshort,positive\\nlonger than the others,negative')")
    page.click("#many-start")
    page.said("Finished.")
    page.resize(320)
    wide = "[...document.querySelectorAll('.wide td, .wide th')].filter((each) => each.scrollWidth > each.clientWidth)"
    assert page.run(f"{wide}.map((each) => each.textContent)") == []
    broken = (
        "[...document.querySelectorAll('th')].filter((each) => each.clientHeight > 45).map((each) => each.textContent)"
    )
    assert page.run(broken) == []


def test_headings_of_the_reasons_are_not_broken_on_a_phone(page: Page, front: Relay) -> None:
    page.resize(320)
    explain(page, front)
    lines = "[...document.querySelectorAll('#why th')].map((each) => { const range = document.createRange();"
    lines += " range.selectNodeContents(each); return range.getClientRects().length; })"
    assert page.run(lines) == [1, 1, 1]


def test_a_message_is_seen_where_the_page_is_scrolled_and_can_be_closed(page: Page, served: Served) -> None:
    page.resize(320, 600)
    page.open(f"{served.url}/#classify/topic").answered()
    page.run("$('right').closest('details').open = true; $('right').value = 'sea'")
    page.run("document.querySelector('#correct > button').scrollIntoView()")
    page.click("#correct > button")
    page.said("Correction kept")
    top, bottom = page.run("(({ top, bottom }) => [top, bottom])($('message').getBoundingClientRect())")
    assert page.run("scrollY") > 300 and 0 <= top < bottom <= 300
    page.run("$('code').focus()")
    assert page.run("$('code').getBoundingClientRect().bottom") > bottom  # not hidden by the message
    page.click("#message button")
    assert page.run("$('message').textContent") == ""


def test_the_focus_stays_near_a_button_that_disappears(page: Page, front: Relay) -> None:
    front.lasting["/explain/topic"] = Canned(200, explained(TEXT), JSON)
    labels = [{"label": f"label {number}", "score": 1 / (number + 1)} for number in range(14)]
    front.lasting["/classify/topic"] = Canned(200, json.dumps([labels]), JSON)
    page.open(f"{front.url}/#classify/topic?text={quote(TEXT)}").answered()
    for text, inside in (("Show all 14", ".bars"), ("Why?", "#why")):
        page.run(f"[...$('result').querySelectorAll('button')].find((each) => each.textContent === '{text}').focus()")
        page.press("Enter")
        assert page.run(f"document.activeElement.matches({json.dumps(inside)})")
    page.until("document.querySelector('#why table')")
    assert page.run("document.activeElement.id") == "why"


NUMBERS = {
    "stars": HeadSpec("classify", ["score"], problem_type="regression"),
    "mood": HeadSpec("classify", ["bad", "good"]),
    "cross": HeadSpec("pair", ["relevant"]),
}


@pytest.fixture(scope="module")
def numbers(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(write_bundle(tmp_path_factory.mktemp("numbers") / "tiny", tokenizer, NUMBERS), lanes=1) as served:
        yield served


@pytest.mark.parametrize(
    ("link", "path", "answer", "shown", "bars"),
    [
        ("classify/stars", "/classify", [[{"label": "score", "score": 0.83}]], ["0.830"], 0),
        ("classify/mood", "/classify/mood", [[{"label": "good", "score": 0.83}]], ["83.0 %"], 1),
        ("classify/mood?function_to_apply=none", "/classify/mood", [[{"label": "good", "score": 0.83}]], ["0.830"], 0),
        ("rerank?raw_scores=true", "/rerank", [{"index": 0, "score": 0.83}], ["0.830"], 0),
        ("rerank", "/rerank", [{"index": 0, "score": 0.83}], ["83.0 %"], 1),
    ],
)
def test_a_number_is_no_percentage(
    page: Page, numbers: Served, link: str, path: str, answer: object, shown: list[str], bars: int
) -> None:
    with relay(numbers.url) as front:
        front.lasting[path] = Canned(200, json.dumps(answer), JSON)
        texts = "&query=a&texts=b" if "?" in link else "?query=a&texts=b"
        page.open(f"{front.url}/#{link}{texts if 'rerank' in link else ''}").answered()
        assert page.run("[...document.querySelectorAll('.score')].map((each) => each.textContent)") == shown
        assert page.run("document.querySelectorAll('.fill').length") == bars
        assert page.said("Answer: ").count(shown[0]) == 1


def test_a_comparison_waits_and_only_the_last_one_is_shown(page: Page, front: Relay) -> None:
    page.open(f"{front.url}/#classify/sentiment").answered()
    page.run("window.real = fetch; window.late = []; $('compare').open = true")
    page.run("fetch = (...all) => new Promise((done) => late.push(() => done(real(...all))))")
    page.click("#compare-now")
    assert page.run("$('verdict').textContent") == "Waiting for both answers …"
    page.run("fetch = real")
    page.write("#rival", "sentiment")
    page.click("#compare-now")
    page.until("$('verdict').textContent.startsWith('Both answer ')")
    page.run("late.forEach((each) => each()); new Promise((done) => setTimeout(done, 200))")
    assert page.run("$('verdict').textContent").startswith("Both answer ")


def test_a_comparison_of_an_unknown_shape_is_reported(page: Page, front: Relay) -> None:
    page.open(f"{front.url}/#tag").answered()
    front.lasting["/tag/ner"] = Canned(200, '{"a": 1}', JSON)
    page.run("$('compare').open = true")
    page.click("#compare-now")
    page.until("$('verdict').textContent === 'This page does not understand an answer.'")


def test_an_explanation_that_failed_can_be_asked_for_again(page: Page, front: Relay) -> None:
    front.canned["/explain/sentiment"] = [Canned(429, '{"title": "Busy", "detail": "full"}', JSON)]
    front.lasting["/explain/sentiment"] = Canned(200, explained(TEXT), JSON)
    page.open(f"{front.url}/#classify?text={quote(TEXT)}").answered()
    page.click("#why button")
    page.said("Wait 1 s, then try again")
    page.click("#why button")
    page.until("document.querySelector('#why table')")


def test_the_preview_says_that_the_file_has_more_rows(page: Page, served: Served) -> None:
    page.open(served.url).answered()
    page.run("$('many').open = true; loadTable('a\\n'.repeat(21))")
    page.click("#many-start")
    page.said("Finished.")
    assert "the first 20 rows; the file has all 21" in page.run("$('many-results').textContent")
    assert page.run("document.querySelectorAll('#many-results tbody tr').length") == 20
