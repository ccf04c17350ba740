"""One tiny bundle and one server for all tests of the service."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from models.tokenizer import Tokenizer
from tests.service.bundles import write_bundle
from tests.service.chromium import Browser, Page, chromium
from tests.service.relay import Relay, relay
from tests.service.reloading import write_versions
from tests.service.serving import Served, serving

SWITCHES = ("_srcfile", "logThreads", "logProcesses", "logMultiprocessing")


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("BERTHEADS_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def unconfigured() -> Iterator[None]:
    """Restore the log settings that a test changes; otherwise later lines go to that test's standard error."""
    root, access, uvicorn = logging.getLogger(), logging.getLogger("uvicorn.access"), logging.getLogger("uvicorn.error")
    before = root.handlers[:], root.level, access.disabled, uvicorn.level
    switches = {name: getattr(logging, name) for name in SWITCHES}
    yield
    root.handlers, root.level, access.disabled, uvicorn.level = before
    for name, value in switches.items():
        setattr(logging, name, value)


@pytest.fixture(scope="session")
def bundle(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("bundles") / "tiny", tokenizer)


@pytest.fixture(scope="session")
def served(bundle: Path) -> Iterator[Served]:
    with serving(
        bundle, lanes=2, max_items=8, max_characters=5000, max_body_bytes=100_000, max_queued_tokens=20_000
    ) as served:
        yield served


@pytest.fixture(scope="session")
def root(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_versions(tmp_path_factory.mktemp("root"), tokenizer)


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with chromium(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page with empty storage, in which no script fails and nothing breaks the security policy."""
    with browser.clean_page() as page:
        yield page
    violations, browser.violations = browser.violations, []
    assert violations == []


@pytest.fixture
def front(served: Served) -> Iterator[Relay]:
    with relay(served.url) as front:
        yield front
