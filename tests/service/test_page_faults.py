"""If this breaks, the playground has a dead end: something fails, and nobody is told what happened and what to do."""

import json
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.service.chromium import INSECURE, Browser, Page
from tests.service.relay import Canned, Relay
from tests.service.serving import Served, serving

HTML = Canned(502, "<html><body><h1>502 Bad Gateway</h1><script>hacked = 1</script></body></html>")


def works(page: Page, text: str = "It works again.") -> None:
    """Ask once more, and get an answer."""
    page.write("#in-text", text)
    page.click("#run")
    page.answered("positive")
    assert page.run("$('trouble').textContent") == "" and page.run("$('in-text').value") == text


def test_a_missing_wrong_or_unsendable_key_is_explained(page: Page, bundle: Path) -> None:
    with serving(bundle, lanes=1, api_key="s3cret") as served:
        page.open(served.url)
        page.said("This service needs an API key")
        for wrong in ("wrong", "ключ", "a\u20acb"):
            page.write("#key", wrong)
            page.run("$('key').dispatchEvent(new Event('change'))")
            assert "Enter a valid key" in page.said("The API key is wrong")
            page.run("$('trouble').replaceChildren()")
        page.write("#key", "s3cret")
        page.run("$('key').dispatchEvent(new Event('change'))")
        page.answered("positive")
        page.write("#key", "again wrong")
        page.click("#run")
        page.said("The API key is wrong")
        page.write("#key", "s3cret")
        works(page)
        kept = page.run(
            "JSON.stringify([{...localStorage}, {...sessionStorage}, location.href, $('code').textContent])"
        )
        assert "s3cret" not in kept and "$KEY" in kept


def test_a_service_that_stops_and_comes_back_is_noticed(page: Page, front: Relay) -> None:
    page.open(front.url).answered()
    page.write("#in-text", "Kept meanwhile.")
    front.down = True
    page.click("#run")
    assert "Your text is kept" in page.said("The service does not answer")
    page.said("no connection, trying again")
    front.down = False
    assert "ready, 7 heads" in page.said("The service answers again")
    assert page.run("$('in-text').value") == "Kept meanwhile."
    works(page)


@pytest.mark.parametrize("path", ["/classify", "/heads", "/health/ready"])
def test_a_page_of_a_proxy_in_place_of_an_answer_is_reported(page: Page, front: Relay, path: str) -> None:
    front.canned[path] = [HTML]
    page.open(front.url)
    if path == "/classify":
        assert "look at the log of the proxy" in page.said("502: this answer is not from the service")
    else:
        page.said("no connection, trying again")
        page.answered("positive")
    page.said("ready, 7 heads")
    works(page)
    assert page.run("typeof hacked") == "undefined"


def test_a_success_that_is_not_json_is_reported(page: Page, front: Relay) -> None:
    front.canned["/classify"] = [Canned(200, "<html>Please log in</html>")]
    page.open(front.url)
    page.said("200: this answer is not from the service")
    works(page)


@pytest.mark.parametrize("answer", ["[]", '{"a": 1}', "null", '[[{"label": null}]]', "[[[[]]]]"])
def test_an_answer_of_an_unknown_shape_is_reported(page: Page, front: Relay, answer: str) -> None:
    front.canned["/classify"] = [Canned(200, answer)]
    page.open(front.url)
    page.said("This page does not understand the answer")
    works(page)


def test_a_busy_service_says_when_to_come_back(page: Page, front: Relay) -> None:
    busy = json.dumps({"title": "Too Many Requests", "status": 429, "detail": "the queue is full"})
    front.canned["/classify"] = [Canned(429, busy, {"Content-Type": "application/problem+json", "Retry-After": "7"})]
    page.open(front.url)
    assert "Wait 7 s, then try again" in page.said("the queue is full")
    works(page)


@pytest.mark.parametrize(
    ("wrong", "says"), [("abc", "is not a number"), ("1,5", "is not a number"), ("0", "parameters.top_k")]
)
def test_a_wrong_number_is_named_at_its_field(page: Page, front: Relay, wrong: str, says: str) -> None:
    page.open(front.url).answered()
    before = len(front.asked)
    page.write("#p-top_k", wrong)
    page.click("#run")
    page.said(says)
    assert page.run("$('p-top_k').getAttribute('aria-invalid')") == "true"
    assert page.run("$($('p-top_k').getAttribute('aria-describedby')).textContent") != ""
    assert page.run("document.activeElement.id") == "p-top_k"
    assert (len(front.asked) == before) == (wrong != "0")
    page.write("#p-top_k", "1")
    page.click("#run")
    page.until("!$('trouble').textContent && document.querySelectorAll('.bars .name').length === 1")
    assert page.run("$('p-top_k').getAttribute('aria-invalid')") == "false"


def test_a_browser_that_forbids_copying_gets_an_explanation(page: Page, served: Served) -> None:
    page.open(served.url.replace("127.0.0.1", INSECURE)).answered()
    assert page.run("navigator.clipboard === undefined")
    page.click("#copy")
    assert "Press Ctrl + C" in page.said("does not let this page copy")
    assert page.run("String(getSelection())").startswith("curl http")
    page.click("#copy-link")
    page.said("The link is in the address bar")
    works(page)


@pytest.mark.parametrize(
    ("link", "says", "task"),
    [
        ("#%E0%A4%A", "which this page does not have", "classify"),
        ("#__proto__/constructor?text=a", 'the task "__proto__"', "classify"),
        ("#rerank?query=a", "for which no head is served", "classify"),
        ("#classify/nope", 'the head "nope"', "classify"),
        ("#pair/nope/%2F?text=a", 'the head "nope//"', "pair"),
        ("#classify/topic?topk=3&text=a", 'It sets "topk"', "classify"),
        (f"#{quote('<img src=x onerror=hacked=1>')}", "<img src=x", "classify"),
        ("#classify?top_k=abc", "is not a number", "classify"),
        ("#classify?truncation=nope", "parameters.truncation", "classify"),
    ],
)
@pytest.mark.parametrize("later", [False, True])
def test_a_bad_link_opens_what_there_is_and_says_so(
    page: Page, served: Served, link: str, says: str, task: str, later: bool
) -> None:
    page.open(f"{served.url}/{'' if later else link}")
    if later:
        page.answered()
        page.run(f"location.hash = {json.dumps(link)}")
    page.said(says)
    assert page.run("state.task") == task and page.run("typeof hacked") == "undefined"


def test_text_survives_tabs_and_reloads_and_is_in_the_link(page: Page, browser: Browser, front: Relay) -> None:
    text, second = "Tea & cake = 100 % fun? #1\n“ok” 🙂", "A + B\tC"
    page.open(f"{front.url}/#pair/nsp").answered("isNext")
    page.write("#in-text", text)
    page.write("#in-text_pair", second)
    page.write("#p-top_k", "1")
    page.write("#p-truncation", "left")
    page.click("#tab-classify")
    page.click("#tab-pair")
    page.write("#head", "nsp")

    def kept(where: Page) -> bool:
        where.until("document.querySelectorAll('.bars .name').length === 1")
        values = ["in-text", "in-text_pair", "p-top_k", "p-truncation", "head"]
        return bool(where.run(f"{values}.map((id) => $(id).value)") == [text, second, "1", "left", "nsp"])

    assert kept(page)
    page.reload()
    assert kept(page)
    link = page.link()
    assert kept(browser.page().open(f"{front.url}/{link}"))
    assert not any("fun" in path for path, _, _ in front.asked)


def test_a_text_that_no_link_can_hold_survives_a_reload(page: Page, served: Served) -> None:
    long = "word " * 900 + "é" * 4000
    page.open(served.url).answered()
    page.run(f"$('in-text').value = {json.dumps(long)}; $('form').dispatchEvent(new Event('x')); changed()")
    assert page.link() == "#classify/sentiment"
    page.reload()
    page.until("window.state && 1 || typeof state === 'object' && state.heads.length")
    assert page.run("$('in-text').value") == long
    page.click("#copy-link")
    page.said("The link opens this head without the text")


def test_a_service_without_heads_says_what_to_do(page: Page, front: Relay) -> None:
    front.lasting["/heads"] = Canned(200, '{"heads": []}')
    page.open(front.url)
    page.said("Load a bundle, then reload the page")
    page.click("#run")
    page.until("state.connecting === undefined && $('trouble').textContent === ''")
    page.said("Load a bundle, then reload the page")


def test_the_page_says_that_it_waits_for_a_slow_answer(page: Page, front: Relay) -> None:
    page.open(front.url).answered()
    page.run("fetch = () => new Promise(() => {}); void run()")
    assert page.run("getComputedStyle($('result'), '::before').content") == '"Waiting for the answer …"'
