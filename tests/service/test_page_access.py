"""If this breaks, some people cannot use the playground: with a keyboard, a screen reader, a phone, or low vision.

Rules: WCAG 2.2 AA, as far as axe-core checks them.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from models.task import HeadSpec
from models.tokenizer import Tokenizer
from tests.programs import npm_packages
from tests.service.bundles import write_bundle
from tests.service.chromium import Page
from tests.service.relay import Canned, Relay, relay
from tests.service.serving import Served, serving

TASKS = ["classify", "pair", "fill-mask", "tag", "qa", "zero-shot"]
WIDTHS = (1280, 320)
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
LOOK = f"axe.run({{runOnly: {{type: 'tag', values: {RULES}}}, resultTypes: ['violations']}})"
FINDINGS = "violations.flatMap((rule) => rule.nodes.map((node) => `${rule.id}: ${node.html} ${node.failureSummary}`))"
WIDE = "[...document.querySelectorAll('body *')].filter((each) => each.getBoundingClientRect().right > innerWidth + 1"
"""Elements beyond the right edge, except in what scrolls by itself."""
OPEN_ALL = "document.querySelectorAll('details').forEach((each) => { each.open = true; })"


@pytest.fixture(scope="module")
def axe() -> str:
    return (npm_packages(Path(__file__).parent / "npm") / "node_modules/axe-core/axe.min.js").read_text()


def check(page: Page, state: str) -> None:
    """Assert that axe finds nothing wrong, and that nothing is wider than the window, on a desk and on a phone."""
    for width in WIDTHS:
        page.resize(width)
        assert (state, width, page.run(f"{LOOK}.then(({{violations}}) => {FINDINGS})")) == (state, width, [])
        beyond = page.run("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        wide = page.run(f"{WIDE}).map((each) => each.outerHTML.slice(0, 90))") if beyond else []
        assert (state, width, beyond, wide) == (state, width, 0, [])


@pytest.fixture(params=["light", pytest.param("dark", marks=pytest.mark.slow)])
def themed(request: pytest.FixtureRequest, page: Page) -> Iterator[Page]:
    """A page that is light, and one that is dark."""
    page.resize(320)
    page.prefer(request.param)
    yield page
    assert page.run("document.documentElement.dataset.theme") == request.param


@pytest.fixture
def shown(themed: Page, front: Relay, axe: str) -> Page:
    """The page with axe in it."""
    themed.open(front.url).answered()
    themed.run(axe)
    return themed


@pytest.fixture(scope="module")
def ranking_service(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Heads that rank, and no others."""
    heads = {name: HeadSpec("pair", ["relevant"]) for name in ("cross", "second")}
    with serving(write_bundle(tmp_path_factory.mktemp("ranking") / "tiny", tokenizer, heads), lanes=1) as served:
        yield served


@pytest.fixture
def ranking(ranking_service: Served) -> Iterator[Relay]:
    with relay(ranking_service.url) as front:
        yield front


def test_every_tab_has_no_findings(shown: Page) -> None:
    for task in TASKS:
        shown.click(f"#tab-{task}")
        shown.until(f"state.task === '{task}' && $('result').ariaBusy === 'false'")
        shown.run(OPEN_ALL)
        check(shown, task)


def test_every_state_has_no_findings(shown: Page, front: Relay) -> None:
    shown.write("#in-text", "longwordwithoutanyblank" * 20)
    shown.write("#p-top_k", "abc")
    shown.click("#run")
    shown.said("is not a number")
    check(shown, "a wrong number")
    shown.run("location.hash = '#nope/nope?nope=' + 'nope'.repeat(40)")
    shown.said("The link does not fit")
    check(shown, "a bad link")
    shown.run("$('key-field').hidden = false")
    check(shown, "a key")
    shown.write("#p-top_k", "")
    shown.run("loadTable('text,label\\n' + 'a,positive\\n'.repeat(3)); $('many').open = true; $('many-start').click()")
    shown.said("Accuracy")
    shown.run("$('result').replaceChildren(); tell(''); run()")
    shown.answered()
    shown.run("$('compare').open = true; compare()")
    shown.until("$('compared').childElementCount")
    shown.run("$('right').value = 'negative'; $('correct').querySelector('button').click()")
    shown.said("Correction kept")
    shown.run(OPEN_ALL)
    check(shown, "tables")
    shown.write("#in-text", "A good film.")
    shown.click("#run")
    shown.until("state.last?.body.inputs === 'A good film.' && document.querySelector('#why button')")
    shown.click("#why button")
    shown.until("document.querySelector('#why table')")
    check(shown, "why")
    front.down = True
    shown.click("#run")
    shown.said("The service does not answer")
    check(shown, "no service")


def test_a_page_that_waits_for_the_service_has_no_findings(themed: Page, front: Relay, axe: str) -> None:
    loading = Canned(
        503, '{"title": "Service Unavailable", "detail": "loading tiny"}', {"Content-Type": "application/json"}
    )
    front.lasting["/health/ready"] = loading
    themed.open(f"{front.url}/#qa").said("loading tiny")
    themed.run(axe)
    themed.click("#run")
    themed.said("The service is not ready")
    assert themed.run("$('head').textContent") == "not known yet"
    check(themed, "starting")


def test_every_state_of_the_rerank_tab_has_no_findings(themed: Page, ranking: Relay, axe: str) -> None:
    themed.open(f"{ranking.url}/#rerank").answered("Berlin")
    themed.run(axe)
    themed.run(OPEN_ALL)
    check(themed, "rerank")
    texts = ["word " * 100, "longwordwithoutanyblank" * 20, *(f"text {number}" for number in range(12))]
    themed.write("#in-texts", "\n".join(texts))
    themed.click("#run")
    themed.answered("tokens were cut")
    themed.run(OPEN_ALL)
    check(themed, "texts that are cut, and more of them than are shown")
    themed.run("[...$('result').querySelectorAll('button')].find((each) => each.textContent === 'Show all 14').click()")
    check(themed, "all texts")
    themed.write("#p-raw_scores", "true")
    themed.click("#run")
    themed.until("state.last?.body.raw_scores && $('result').ariaBusy === 'false'")
    themed.run("compare()")
    themed.until("$('compared').childElementCount")
    check(themed, "raw scores of two heads")
    themed.write("#in-texts", " ")
    themed.click("#run")
    themed.until("$('in-texts').ariaInvalid === 'true'")
    check(themed, "no texts")
    ranking.down = True
    themed.click("#run")
    themed.said("The service does not answer")
    check(themed, "no service")


SCREENS = ["post/classify", "post/v2/models/{model}/infer", "get/heads/{head}", "get/nothing"]


def test_the_description_of_the_api_has_no_findings(themed: Page, served: Served, axe: str) -> None:
    page = themed
    page.open(f"{served.url}/docs").until("globalThis.docs?.screens ?? document.querySelector('#statuses button')")
    page.run(axe)
    for screen in SCREENS:
        page.run(f"location.hash = '{screen}'")
        page.until("document.activeElement.id === 'title' && document.querySelector('#statuses button')")
        page.run("[...document.querySelectorAll('#screen button')].find((each) => each.textContent === 'Send').click()")
        page.until("document.querySelector('#sent pre')")
        page.run("document.querySelector('#statuses button:last-child').click(); $('routes').open = true")
        check(page, screen)


def focused(page: Page) -> str:
    found: str = page.run("document.activeElement.id || document.activeElement.textContent.trim()")
    return found


def test_everything_is_reached_by_keyboard_in_order_and_shows_its_focus(page: Page, served: Served) -> None:
    page.open(served.url).answered()
    page.run("document.body.focus()")
    seen: list[str] = []
    for _ in range(40):
        page.press("Tab")
        name = focused(page)
        if name in seen or page.run("document.activeElement === document.body"):
            break
        seen.append(name)
        outline = page.run("getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none", name
    wanted = [
        "API",
        "theme",
        "tab-classify",
        "head",
        "in-text",
        "Parameters",
        "run",
        "copy-link",
        "tab-curl",
        "copy",
        "code",
    ]
    assert [name for name in seen if name in wanted] == wanted
    order = "[...document.querySelectorAll('*')].filter((each) => each.matches(':is(a, button, select, input, textarea)"
    order += ':not([tabindex="-1"])\') && each.checkVisibility()).map((each) => each.id || each.textContent.trim())'
    assert set(page.run(order)) <= set(seen)


def test_the_description_of_the_api_is_used_by_keyboard(page: Page, served: Served) -> None:
    page.resize(1280)
    page.open(f"{served.url}/docs").until("document.querySelector('#statuses button')")
    last = "[...document.querySelectorAll('#list a')].at(-1)"
    page.run(f"{last}.focus()")
    page.press("Enter")
    page.until("document.activeElement.id === 'title' && location.hash.includes('unload')")
    seen = []
    while focused(page) != "Copy curl":
        page.press("Tab")
        seen.append(focused(page))
        assert page.run("getComputedStyle(document.activeElement).outlineStyle") != "none", seen
    wanted = ["name-name", "body", "code", "Send"]
    assert [name for name in seen if name in wanted] == wanted
    page.run("document.querySelector('#statuses button').focus()")
    page.press("End")
    assert focused(page) == "tab-503" and page.run("$('answer').getAttribute('aria-labelledby')") == "tab-503"


def test_arrow_keys_move_between_tabs(page: Page, served: Served) -> None:
    page.open(served.url).answered()
    page.run("$('tab-classify').focus()")
    for key, task in (
        ("ArrowRight", "pair"),
        ("End", "zero-shot"),
        ("ArrowRight", "classify"),
        ("ArrowLeft", "zero-shot"),
        ("ArrowLeft", "qa"),
    ):
        page.press(key)
        assert focused(page) == f"tab-{task}"
        assert page.run(f"$('tab-{task}').getAttribute('aria-selected')") == "true"
        assert page.run("$('panel').getAttribute('aria-labelledby')") == f"tab-{task}"
    page.press("Home")
    page.until("state.task === 'classify'")


def test_an_answer_is_said_without_taking_the_focus(page: Page, served: Served) -> None:
    page.open(served.url).answered()
    page.write("#in-text", "The sea is blue.")
    page.run("$('said').textContent = ''; $('run').focus()")
    page.press("Enter")
    assert "%" in page.said("Answer: ")
    assert focused(page) == "run"
