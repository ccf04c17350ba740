"""If this breaks, the playground shows no answer in a real browser, or runs code that a bundle or a text injects."""

import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from models.task import HeadSpec
from models.tokenizer import Tokenizer
from service import pages
from tests.service.bundles import write_bundle
from tests.service.chromium import Browser, Page
from tests.service.serving import Served, serving


@pytest.mark.parametrize(
    ("task", "traces"),
    [
        ("classify", ['class="bars"', "positive", "negative"]),
        ("pair/nsp", ['class="bars"', "isNext", "notNext"]),
        ("fill-mask", ["<mark", 'class="bars"']),
        ("tag", ['class="passage"']),
        ("qa", ['class="passage"', 'class="answer']),
    ],
)
def test_each_task_answers_its_first_example(page: Page, served: Served, task: str, traces: list[str]) -> None:
    page.open(f"{served.url}/#{task}").answered()
    document = page.document()
    for trace in [*traces, 'class="legend"', "tiny/1.2.3", f"curl {served.url}/{task}", "ready, 7 heads"]:
        assert trace in document, trace
    assert 'class="notice bad"' not in document


def test_labels_are_text_and_never_markup(page: Page, tokenizer: Tokenizer, tmp_path: Path) -> None:
    label = "<img src=x onerror=alert(1)>"
    bundle = write_bundle(tmp_path / "bundle", tokenizer, {"mood": HeadSpec("classify", [label, "good"])})
    with serving(bundle, lanes=1) as served:
        page.open(served.url).answered("onerror")
        document = page.document()
    assert "&lt;img src=x onerror=alert(1)&gt;" in document and "<img" not in document


CALL = """<body><script>
const headers = {"content-type": "application/json", authorization: "Bearer s3cret"};
const call = {method: "POST", headers, body: BODY};
fetch("URL/classify", call).then(
  (answer) => { document.body.textContent = `${answer.status} ${answer.headers.get("X-Bundle")}`; },
  () => { document.body.textContent = "blocked"; });
</script></body>"""


@pytest.mark.parametrize(("allowed", "seen"), [(True, "200 tiny/1.2.3"), (False, "blocked")])
def test_the_page_of_another_origin_can_call_if_it_is_allowed(
    browser: Browser, bundle: Path, tmp_path: Path, allowed: bool, seen: str
) -> None:
    (tmp_path / "pages").mkdir()
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path / "pages"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as elsewhere:
        threading.Thread(target=elsewhere.serve_forever).start()
        origin = f"http://127.0.0.1:{elsewhere.server_port}"
        origins = origin if allowed else "https://app.example.com"
        with serving(bundle, lanes=1, api_key="s3cret", cors_origins=origins) as served:
            script = CALL.replace("URL", served.url).replace("BODY", repr('{"inputs": "a"}'))
            (tmp_path / "pages/index.html").write_text(script)
            page = browser.page()
            page.open(f"{origin}/index.html").until("document.body?.children.length === 0 && document.body.textContent")
            assert page.run("document.body.textContent") == seen
        elsewhere.shutdown()
    browser.violations.clear()  # that it is blocked is logged


PAGES = ["/", "/docs"]


@pytest.mark.parametrize("path", PAGES)
@pytest.mark.parametrize("encoding", ["gzip", "identity"])
def test_a_file_that_the_client_has_is_not_sent_again(served: Served, path: str, encoding: str) -> None:
    headers = {"Accept-Encoding": encoding}
    first = served.client.get(path, headers=headers)
    tag = first.headers["ETag"]
    assert first.status_code == 200 and first.content and not tag.startswith("W/")
    for known in (tag, f'"other", W/{tag}', "*"):
        again = served.client.get(path, headers=headers | {"If-None-Match": known})
        assert (again.status_code, again.content) == (304, b"")
        assert all(again.headers[name] == first.headers[name] for name in ("ETag", "Cache-Control", "Vary"))
    assert served.client.get(path, headers=headers | {"If-None-Match": '"other"'}).status_code == 200


@pytest.mark.parametrize("path", PAGES)
def test_each_encoding_has_a_tag_of_its_own_and_the_same_content(served: Served, path: str) -> None:
    plain, zipped = (served.client.get(path, headers={"Accept-Encoding": name}) for name in ("identity", "gzip"))
    assert "Content-Encoding" not in plain.headers and zipped.headers["Content-Encoding"] == "gzip"
    assert int(zipped.headers["Content-Length"]) < int(plain.headers["Content-Length"])
    assert plain.content == zipped.content and plain.headers["ETag"] != zipped.headers["ETag"]
    for answer in (plain, zipped):
        assert answer.headers["Vary"] == "Accept-Encoding" and answer.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize(
    ("accepted", "zipped"),
    [
        ("", False),
        ("gzip", True),
        ("br, GZIP;q=0.5", True),
        ("gzip;q=0", False),
        ("gzip; q=0.0, *", False),
        ("*", True),
        ("identity, *;q=0", False),
        ("deflate", False),
    ],
)
def test_compression_is_what_the_client_accepts(served: Served, accepted: str, zipped: bool) -> None:
    answer = served.client.get("/", headers={"Accept-Encoding": accepted})
    assert ("Content-Encoding" in answer.headers) == zipped


def test_pages_are_checked_each_time(served: Served) -> None:
    for path in PAGES:
        assert served.client.get(path).headers["Cache-Control"] == "no-cache"


def test_files_are_read_once(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    before = [served.client.get(path).content for path in PAGES]
    monkeypatch.setattr(pages, "PARTS", Path("/nowhere"))
    assert [served.client.get(path).content for path in PAGES] == before
