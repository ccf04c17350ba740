"""If this breaks, /docs describes other requests than the service takes, or lacks a route."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.programs import program
from tests.service.chromium import Page
from tests.service.relay import Canned, Relay
from tests.service.serving import Served, serving

DRAWN = "document.querySelector('#statuses button') && document.querySelector('#code')?.textContent"
SEND = "[...document.querySelectorAll('#screen button')].find((each) => each.textContent === 'Send').click()"
SENT = "document.querySelector('#sent .status')"


def opened(page: Page, served: Served, route: str = "") -> Page:
    page.open(f"{served.url}/docs#{route}").until(DRAWN)
    return page


def run(command: str, **environment: str) -> tuple[int, Any]:
    """Run a command for a shell that calls curl; return the status, and the answer."""
    curl = command.replace("curl ", "curl --silent --write-out '\\n%{http_code}' ", 1)
    shell = [program("bash", package="bash"), "-c", curl]
    ran = subprocess.run(shell, capture_output=True, env=os.environ | environment)
    text, _, status = ran.stdout.decode().rpartition("\n")
    return int(status), json.loads(text)


def test_every_route_has_a_screen(page: Page, served: Served) -> None:
    opened(page, served)
    document = served.client.get("/openapi.json").json()
    wanted = {f"#{method}{path}" for path, methods in document["paths"].items() for method in methods}
    assert set(page.run("docs.screens.flat().map(anchor)")) == wanted
    for screen in page.run("docs.screens.map(([first]) => anchor(first))"):
        page.run(f"location.hash = {json.dumps(screen)}")
        page.until(f"document.querySelector('#list a[aria-current]')?.getAttribute('href') === {json.dumps(screen)}")
        assert page.run("document.querySelector('#title code').textContent") in screen
    for wrong in ("post/nothing", "%E0%A4%A", "<img src=x>"):
        page.run(f"location.hash = {json.dumps(wrong)}")
        page.said("There is no route " + wrong)


def test_a_request_is_sent_and_its_answer_shown(page: Page, served: Served) -> None:
    opened(page, served, "post/pair/{head}")
    page.write("#name-head", "nsp")
    page.write("#body", '{"inputs": {"text": "a", "text_pair": "b\'s"}}')
    page.run(SEND)
    page.until(SENT)
    wanted = served.answer("/pair/nsp", {"text": "a", "text_pair": "b's"})
    assert json.loads(page.run("document.querySelector('#sent pre').textContent")) == wanted
    assert page.run(f"{SENT}.textContent") == "200 OK" and "tiny/1.2.3" in page.run("$('sent').textContent")
    assert run(page.run("$('code').textContent")) == (200, wanted)
    page.write("#body", "{")
    page.run("$('sent').replaceChildren();" + SEND)
    page.until(f"{SENT}?.textContent === '400 Bad Request'")


@pytest.mark.parametrize("route", ["post/classify", "post/v2/models/{model}/infer", "get/heads/{head}"])
def test_a_request_that_the_page_expects_to_fail_fails(page: Page, served: Served, route: str) -> None:
    opened(page, served, route)
    seen = 0
    for status in page.run("[...document.querySelectorAll('#statuses button')].map((each) => each.textContent)"):
        page.click(f"#tab-{status}")
        shown = page.run("[...document.querySelectorAll('#answer pre')].map((each) => each.textContent)")
        if len(shown) < 2 or status == "504":  # no request alone gets it, or it depends on the load
            continue
        found, answer = run(shown[0])
        assert (found, answer["detail"]) == (int(status), json.loads(shown[1])["detail"])
        seen += 1
    assert seen >= 2


def test_a_key_is_asked_for_and_never_shown(page: Page, bundle: Path) -> None:
    with serving(bundle, lanes=1, api_key="s3cret") as served:
        opened(page, served, "get/heads")
        page.run(SEND)
        page.until(f"{SENT}?.textContent === '401 Unauthorized'")
        page.write("#key", "s3cret")
        page.run(SEND)
        page.until(f"{SENT}?.textContent === '200 OK'")
        code = page.run("$('code').textContent")
        assert "s3cret" not in code and run(code, KEY="s3cret")[0] == 200


def test_a_link_leads_back_and_the_theme_is_that_of_the_playground(page: Page, served: Served) -> None:
    opened(page, served, "post/qa")
    page.click("#theme")
    theme = page.run("document.documentElement.dataset.theme")
    href = "[...document.querySelectorAll('#screen a')].find((each) => each.textContent.startsWith('Try it')).href"
    page.open(page.run(href)).answered()
    assert page.run("state.task") == "qa" and page.run("document.documentElement.dataset.theme") == theme
    opened(page, served)
    page.open(page.run("document.querySelector('header a').href")).answered()


def test_a_service_that_does_not_answer_says_so(page: Page, front: Any) -> None:
    opened(page, front)
    front.down = True
    page.run(SEND)
    page.until("$('sent').textContent.includes('The service does not answer')")


def test_a_late_answer_is_not_shown_on_another_screen(page: Page, served: Served) -> None:
    opened(page, served, "get/heads")
    page.run("window.real = fetch")
    page.run("fetch = (...all) => new Promise((done) => { window.late = () => done(real(...all)); })")
    page.run(SEND)
    page.run("location.hash = 'get/metrics'")
    page.until("document.activeElement.id === 'title'")
    page.run("late(); new Promise((done) => setTimeout(done, 200))")
    assert page.run("$('sent').textContent") == ""


def test_a_body_that_someone_wrote_stays_when_the_path_is_changed_by_keyboard(page: Page, served: Served) -> None:
    page.resize(1280)
    opened(page, served, "post/classify")
    page.write("#body", '{"inputs": "Mine."}')
    page.run("$('variant').focus()")
    page.run("$('variant').selectedIndex = 1; $('variant').dispatchEvent(new Event('change'))")
    page.until("location.hash.includes('{head}') && document.querySelector('#name-head')")
    assert page.run("[document.activeElement.id, $('body').value]") == ["variant", '{"inputs": "Mine."}']
    assert "Mine." in page.run("$('code').textContent")
    page.run("""document.querySelector('#list a[href="#post/pair"]').focus()""")
    page.press("Enter")
    page.until("document.activeElement.id === 'title' && document.querySelector('#title').textContent.includes('pair')")
    assert "Mine." not in page.run("$('body').value")
    page.run("location.hash = 'post/classify'")
    page.until("$('body').value.includes('Mine.')")


@pytest.mark.parametrize("answer", ["<html>", '{"title": "Unauthorized"}'])
def test_a_page_of_a_proxy_in_place_of_the_document_is_reported(page: Page, front: Relay, answer: str) -> None:
    front.lasting["/openapi.json"] = Canned(502, answer)
    page.open(f"{front.url}/docs")
    page.said("Check that it runs, then reload this page")
    assert page.run("$('screen').textContent") == ""  # nothing loads any more
