"""If this breaks, a page of a stranger uses the service through somebody's browser, or an allowed page cannot."""

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.__main__ import main
from service.settings import Settings
from tests.service.serving import Served, serving
from tests.service.test_bad_input import problem

PAGE = "https://app.example.com"
STRANGER = "https://evil.example"
EXPOSED = "X-Bundle, X-Truncated, X-Request-Id, Server-Timing, Retry-After"
ALLOWED = "authorization, content-type, user-agent, x-request-id, x-deadline-ms, x-bundle, traceparent, tracestate"
ASKS = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}


@pytest.fixture(scope="module")
def shared(bundle: Path) -> Iterator[Served]:
    """A service with a key that a page of one origin may use."""
    with serving(
        bundle, lanes=1, max_body_bytes=2000, api_key="s3cret", cors_origins=f"{PAGE},http://[::1]:3000"
    ) as it:
        yield it


@pytest.mark.parametrize("path", ["/classify", "/heads", "/nothing", "/health/live", "/metrics", "/"])
def test_a_preflight_of_an_allowed_origin_needs_no_key(shared: Served, path: str) -> None:
    response = httpx.options(shared.url + path, headers={"Origin": PAGE, **ASKS})
    assert (response.status_code, response.content) == (204, b"")
    assert response.headers["Access-Control-Allow-Origin"] == PAGE and response.headers["Vary"] == "Origin"
    assert response.headers["Access-Control-Allow-Methods"] == "GET, POST"
    assert response.headers["Access-Control-Allow-Headers"] == ALLOWED
    assert response.headers["Access-Control-Max-Age"] == "7200"
    assert "Access-Control-Allow-Credentials" not in response.headers


@pytest.mark.parametrize("origin", [STRANGER, "null", "http://app.example.com", PAGE + ".evil.example", PAGE + ":1"])
def test_a_preflight_of_another_origin_is_refused(shared: Served, origin: str) -> None:
    before = shared.sample("rejected_total", reason="forbidden")
    response = httpx.options(f"{shared.url}/classify", headers={"Origin": origin, **ASKS})
    assert "BERTHEADS_CORS_ORIGINS" in problem(response, 403)["detail"]
    assert not [name for name in response.headers if name.startswith("access-control")]
    assert shared.sample("rejected_total", reason="forbidden") == before + 1


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/classify", '{"inputs": "a"}', 200),
        ("POST", "/classify/none", '{"inputs": "a"}', 404),
        ("POST", "/classify", '{"inputs": 1}', 422),
        ("POST", "/classify", " " * 3000, 413),
        ("GET", "/heads", None, 200),
        ("GET", "/classify", None, 405),
        ("GET", "/health/live", None, 200),
        ("OPTIONS", "/classify", None, 405),
    ],
)
def test_a_page_of_an_allowed_origin_can_read_every_answer(
    shared: Served, method: str, path: str, body: str | None, status: int
) -> None:
    response = shared.client.request(method, path, content=body, headers={"Origin": PAGE})
    assert response.status_code == status
    assert response.headers["Access-Control-Allow-Origin"] == response.headers["Timing-Allow-Origin"] == PAGE
    assert response.headers["Access-Control-Expose-Headers"] == EXPOSED
    assert response.headers.get_list("Vary") == ["Origin"]


def test_a_page_can_read_refusals_and_failures(shared: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError

    headers = {"Origin": PAGE}
    refused = httpx.post(f"{shared.url}/classify", headers=headers)
    monkeypatch.setattr("service.heads.Heads.find", fail)
    failed = shared.client.post("/classify", json={"inputs": "a"}, headers=headers)
    assert (refused.status_code, failed.status_code) == (401, 500)
    assert refused.headers["Access-Control-Allow-Origin"] == failed.headers["Access-Control-Allow-Origin"] == PAGE


@pytest.mark.parametrize("headers", [{}, {"Origin": STRANGER}])
def test_other_origins_get_no_permission_and_vary_names_the_origin(shared: Served, headers: dict[str, str]) -> None:
    response = shared.client.get("/heads", headers=headers)
    assert response.status_code == 200 and response.headers["Vary"] == "Origin"
    assert not [name for name in response.headers if name.startswith(("access-control", "timing-allow"))]


def test_any_origin_may_be_allowed(bundle: Path) -> None:
    with serving(bundle, lanes=1, cors_origins="*") as served:
        for origin in (STRANGER, "null"):
            response = served.client.post("/classify", json={"inputs": "a"}, headers={"Origin": origin})
            assert response.status_code == 200 and response.headers["Access-Control-Allow-Origin"] == origin


def test_without_the_setting_no_header_names_origins(served: Served) -> None:
    response = served.client.get("/heads", headers={"Origin": STRANGER})
    assert not [name for name in response.headers if name.startswith(("access-control", "timing-allow", "vary"))]
    assert httpx.options(f"{served.url}/classify", headers={"Origin": STRANGER, **ASKS}).status_code == 403


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("https://App.Example.com:443, http://localhost:80", ("https://app.example.com", "http://localhost")),
        ("http://a.example:8080,https://[::1]:8443,*", ("http://a.example:8080", "https://[::1]:8443", "*")),
        ("chrome-extension://abcdef,http://a.example:443", ("chrome-extension://abcdef", "http://a.example:443")),
    ],
)
def test_origins_are_kept_as_browsers_write_them(given: str, kept: tuple[str, ...]) -> None:
    assert Settings(cors_origins=given).cors_origins == kept


@pytest.mark.usefixtures("unconfigured")
@pytest.mark.parametrize(
    "wrong", ["app.example.com", "https://a/b", "https://a.example/", "null", "https://u@a", "https://*.a", "https://"]
)
def test_a_wrong_origin_ends_the_start(wrong: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--cors-origins", f"{PAGE},{wrong}"]) == 1
    error = capsys.readouterr().err
    assert f"{wrong!r} is not an origin; write scheme and host only" in error and error.count("\n") == 1


@pytest.mark.usefixtures("unconfigured")
@pytest.mark.parametrize("wrong", ["https://a.example", "a.example:80", "*.a.example", "a/b"])
def test_a_wrong_host_ends_the_start(wrong: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--allowed-hosts", wrong]) == 1
    assert f"{wrong!r} is not a host" in capsys.readouterr().err


def classify(served: Served, **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return served.client.post("/classify", json={"inputs": "a"}, headers=named)


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST:1",
        "localhost.:8000",
        "a.localhost",
        "127.0.0.1",
        "127.9.9.9:80",
        "[::1]:8000",
        "10.1.2.3",
    ]
    + ["[fe80::1]", "bertheads:8000", "host.docker.internal:8000", ""],
)
def test_local_names_and_addresses_are_known(served: Served, host: str) -> None:
    assert classify(served, Host=host).status_code == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example", "x.internal.evil.example"]
    + ["evillocalhost.example", "[evil.example]"],
)
@pytest.mark.parametrize("path", ["/", "/heads", "/classify", "/metrics"])
def test_a_name_that_a_stranger_can_own_is_not(served: Served, host: str, path: str) -> None:
    """DNS rebinding: its owner lets it point to 127.0.0.1 once the browser has its page."""
    response = served.client.get(path, headers={"Host": host})
    assert "BERTHEADS_ALLOWED_HOSTS" in problem(response, 403)["detail"]


def test_probes_may_use_any_host(served: Served) -> None:
    assert served.client.get("/health/live", headers={"Host": "evil.example"}).status_code == 200


def test_a_program_that_names_no_host_passes(served: Served) -> None:
    url = served.client.base_url
    for version in (b"1.0", b"1.1"):
        with socket.create_connection((url.host, url.port or 0), timeout=20) as connection:
            connection.sendall(b"GET /heads HTTP/" + version + b"\r\nConnection: close\r\n\r\n")
            assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200 ")


def test_hosts_may_be_named(bundle: Path) -> None:
    with serving(bundle, lanes=1, api_key="k", allowed_hosts="API.example.com,b.example.") as served:
        for host in ("api.example.com", "Api.Example.Com.:443", "b.example", "127.0.0.1"):
            assert classify(served, Host=host).status_code == 200
        assert classify(served, Host="evil.example").status_code == 403


@pytest.mark.parametrize("settings", [{"api_key": "k"}, {"host": "0.0.0.0"}, {"allowed_hosts": "*"}])
def test_any_host_passes_with_a_key_or_beyond_this_machine(bundle: Path, settings: dict[str, Any]) -> None:
    with serving(bundle, lanes=1, **settings) as served:
        assert classify(served, Host="api.example.com").status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Sec-Fetch-Mode": "cors"},  # fetch of node
        {"Origin": "http://localhost:8000", "Host": "localhost:8000"},
        {"Origin": "https://public", "Host": "public"},
        {"Origin": "https://public", "Host": "public:443"},
        {"Origin": "https://Public:8443", "Host": "public"},  # nginx with $host
        {"Origin": "http://[::1]:8000", "Host": "[::1]:8000"},
        {"Origin": "https://public.example", "Host": "10.0.0.1", "Sec-Fetch-Site": "same-origin"},
        {"Sec-Fetch-Site": "none"},
    ],
)
def test_our_own_page_and_programs_may_post(served: Served, headers: dict[str, str]) -> None:
    assert served.client.post("/classify", json={"inputs": "a"}, headers=headers).status_code == 200


FOREIGN = [
    {"Origin": STRANGER},
    {"Origin": "null"},
    {"Origin": ""},
    {"Origin": "null", "Host": ""},
    {"Origin": "http://localhost:3000", "Host": "localhost:8000"},
    {"Origin": "http://localhost", "Host": "localhost:8000"},
    {"Origin": "http://localhost.evil.example", "Host": "localhost"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site", "Origin": "http://other.example"},
    {"Sec-Fetch-Site": "cross-site", "Origin": "http://localhost:8000", "Host": "localhost:8000"},
]


@pytest.mark.parametrize("headers", FOREIGN)
def test_the_page_of_a_stranger_may_not(served: Served, headers: dict[str, str]) -> None:
    for path in ("/classify", "/nothing"):
        response = served.client.post(path, json={"inputs": "a"}, headers=headers)
        assert problem(response, 403)["errors"][0]["field"] == "Origin"
        assert "BERTHEADS_CORS_ORIGINS" in response.text


@pytest.mark.parametrize("headers", FOREIGN)
def test_with_the_key_it_may(shared: Served, headers: dict[str, str]) -> None:
    """A page that has the key was given it; without it, the key is what it lacks."""
    assert shared.client.post("/classify", json={"inputs": "a"}, headers=headers).status_code == 200
    assert httpx.post(f"{shared.url}/classify", json={"inputs": "a"}, headers=headers).status_code == 401


def test_an_allowed_page_needs_no_key_where_none_is_set(bundle: Path) -> None:
    with serving(bundle, lanes=1, cors_origins=PAGE) as served:
        assert classify(served, Origin=PAGE, Sec_Fetch_Site="cross-site").status_code == 200
        assert classify(served, Origin=STRANGER, Sec_Fetch_Site="cross-site").status_code == 403
