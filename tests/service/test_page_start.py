"""If this breaks, the playground loses what people typed before the service answered, or misleads while it starts."""

import json

import pytest

from tests.service.chromium import Page
from tests.service.relay import Canned, Relay
from tests.service.serving import Served

PROBLEM = {"Content-Type": "application/problem+json"}
LOADING = Canned(503, '{"title": "Service Unavailable", "detail": "loading tiny"}', PROBLEM)
LOCKED = Canned(401, '{"title": "Unauthorized", "detail": "no key"}', PROBLEM)
LINK = "#qa/qa?question=Who%3F&context=Ann+left."


def test_a_link_is_shown_while_the_service_starts_and_runs_once_it_is_ready(page: Page, front: Relay) -> None:
    front.lasting["/health/ready"] = LOADING
    page.open(f"{front.url}/{LINK}")
    page.said("loading tiny")
    assert page.run("[$('in-question').value, $('in-context').value, $('code').textContent.includes('Ann left.')]") == [
        "Who?",
        "Ann left.",
        True,
    ]
    page.click("#run")
    page.said("The service is not ready")
    page.write("#in-question", "Who left?")
    front.lasting.clear()
    page.answered("Ann")
    assert page.run("[$('in-question').value, $('head').value, $('trouble').textContent]") == ["Who left?", "qa", ""]
    assert "/qa" in [path for path, _, _ in front.asked]


def test_a_tab_is_chosen_before_the_service_answers(page: Page, front: Relay) -> None:
    front.lasting["/heads"] = LOCKED
    page.open(f"{front.url}/{LINK}")
    page.said("This service needs an API key")
    page.click("#tab-tag")
    page.write("#in-text", "Ann met Bob.")
    page.click("#run")
    page.said("This service needs an API key")
    assert not {"/tag", "/qa"} & {path for path, _, _ in front.asked}
    front.lasting.clear()
    page.click("#run")
    page.answered()
    assert page.run("[state.task, $('in-text').value]") == ["tag", "Ann met Bob."]
    page.click("#tab-qa")
    page.answered("Ann")
    assert page.run("$('in-question').value") == "Who?"


def test_enter_in_the_key_field_asks_once_and_says_nothing_wrong(page: Page, front: Relay) -> None:
    front.lasting["/heads"] = LOCKED
    page.open(front.url)
    page.said("This service needs an API key")
    front.lasting.clear()
    page.write("#key", "s3cret")
    before = len(front.asked)
    page.press("Enter")
    page.answered("positive")
    asked = [path for path, _, _ in front.asked[before:]]
    assert asked == ["/health/ready", "/heads", "/classify"] and page.run("$('message').textContent") == ""


@pytest.mark.parametrize("junk", ["[null]", '[{"a": 1}]', '"x"', '{"head": 1, "line": 2}', "[[[5]]]"])
def test_what_another_page_of_the_same_address_stored_does_no_harm(page: Page, served: Served, junk: str) -> None:
    page.open(served.url).answered()
    page.run(f"localStorage.setItem('corrections', {json.dumps(junk)}); localStorage.setItem('theme', '{{')")
    page.run(f"sessionStorage.setItem('texts', {json.dumps(junk)})")
    page.reload()
    page.answered("positive")
    assert "None yet" in page.run("$('corrections').textContent")


def test_other_heads_after_a_restart_are_shown_and_the_text_stays(page: Page, front: Relay) -> None:
    page.open(front.url).answered()
    page.write("#in-text", "Kept meanwhile.")
    front.down = True
    page.click("#run")
    page.said("no connection, trying again")
    heads = front.client.get("/heads").json()
    for head in heads["heads"]:
        head["bundle"]["version"] = "7.7.7"
    heads["heads"] = [head for head in heads["heads"] if head["name"] != "topic"]
    front.lasting["/heads"] = Canned(200, json.dumps(heads), {"Content-Type": "application/json"})
    front.down = False
    page.said("It serves other heads or versions than before")
    assert "7.7.7" in page.run("$('about').textContent") and "7.7.7" in page.run("$('card').textContent")
    assert "topic" not in page.run("$('head').textContent")
    assert page.run("[$('in-text').value, $('head').value]") == ["Kept meanwhile.", "sentiment"]


def test_a_late_answer_does_not_hide_a_fault(page: Page, front: Relay) -> None:
    page.open(front.url).answered()
    page.run(
        "window.real = fetch; fetch = (...all) => new Promise((done) => { window.late = () => done(real(...all)); })"
    )
    page.click("#run")
    page.write("#p-top_k", "abc")
    page.click("#run")
    page.said("is not a number")
    page.run("late(); new Promise((done) => setTimeout(done, 200))")
    assert "is not a number" in page.said("A parameter is not a number")
    assert page.run("$('result').ariaBusy") == "false"


@pytest.mark.parametrize(
    ("status", "says", "is_away"),
    [
        (413, "Shorten the text", False),
        (403, "log in if it asks", False),
        (429, "Wait 9 s, then try again", False),
        (404, "look at the log of the proxy", False),
        (504, "The service may be starting", True),
    ],
)
def test_each_page_of_a_proxy_has_its_own_remedy(
    page: Page, front: Relay, status: int, says: str, is_away: bool
) -> None:
    page.open(front.url).answered()
    front.canned["/classify"] = [Canned(status, "<html>", {"Content-Type": "text/html", "Retry-After": "9"})]
    page.click("#run")
    assert says in page.said(f"{status}: this answer is not from the service")
    if is_away:
        page.said("The service answers again")
    else:
        assert page.run("state.watching") is None and "ready, 7 heads" in page.said("ready")


def test_an_error_without_a_request_id_names_none(page: Page, front: Relay) -> None:
    front.canned["/classify"] = [Canned(500, '{"title": "Boom"}', PROBLEM)]
    page.open(front.url)
    assert "look at the log of the service" in page.said("500 Boom")
