"""If this breaks, a panel stays empty in front of an operator: every query runs against a real Prometheus that
scraped the real service under traffic, errors and refusals included."""

import json
import math
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from models.tokenizer import Tokenizer
from tests.programs import free_port, program
from tests.service.bundles import write_bundle

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "deploy/prometheus"
DASHBOARD = json.loads((ROOT / "deploy/grafana/dashboards/bertheads.json").read_text())
SCRAPE_SECONDS = 1
RATE_INTERVAL = f"{4 * SCRAPE_SECONDS}s"  # as Grafana computes $__rate_interval
SCRAPES = 8
PATIENCE = 60.0

PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
QUERIES = [pytest.param(target, id=f"{p['title']} {target['refId']}") for p in PANELS for target in p["targets"]]
VARIABLES = {v["name"]: v["query"]["query"] for v in DASHBOARD["templating"]["list"] if v["type"] == "query"}

LONG = "the old house by the sea " * 40
TRAFFIC: list[tuple[str, dict[str, Any], dict[str, str]]] = [
    ("/classify", {"inputs": ["a warm and funny film", "the plot is thin", LONG]}, {}),
    ("/classify/topic", {"inputs": LONG}, {}),
    ("/pair/nli", {"inputs": {"text": LONG, "text_pair": "a house"}}, {}),
    ("/pair/nsp", {"inputs": {"text": "he opened the door", "text_pair": "the room was dark"}}, {}),
    ("/fill-mask", {"inputs": "the [MASK] is red"}, {}),
    ("/tag", {"inputs": "Anna lives in Paris"}, {}),
    ("/qa", {"inputs": {"question": "who lives here?", "context": "Anna lives here."}}, {}),
    # what goes wrong: unknown name, bad parameter, body over the limit, a deadline that cannot be kept
    ("/classify/none", {"inputs": "a film"}, {}),
    ("/classify", {"inputs": "a film", "parameters": {"top_k": -1}}, {}),
    ("/classify", {"inputs": "a" * 20_000}, {}),
    ("/qa", {"inputs": [{"question": "who?", "context": LONG}] * 8}, {"X-Deadline-Ms": "1"}),
]


@dataclass(frozen=True)
class Scraped:
    """A Prometheus that has scraped a service under traffic from `start` to `end`, in seconds since 1970."""

    client: httpx.Client
    start: float
    end: float
    statuses: set[int]

    def get(self, path: str, **parameters: Any) -> Any:
        answer = self.client.get(f"/api/v1/{path}", params=parameters).json()
        assert answer["status"] == "success", answer
        return answer["data"]

    def values(self, expression: str, instant: bool) -> list[float]:
        """Return all values, as the panel asks for them: those of an instant, or of a range of time."""
        if instant:
            result = self.get("query", query=expression, time=self.end)["result"]
            return [float(series["value"][1]) for series in result]
        span = {"start": self.start, "end": self.end, "step": SCRAPE_SECONDS}
        result = self.get("query_range", query=expression, **span)["result"]
        return [float(value) for series in result for _, value in series["values"]]

    def substituted(self, expression: str) -> str:
        """Put in what Grafana would for variables at "All"."""
        expression = expression.replace("$__rate_interval", RATE_INTERVAL)
        for name, query in VARIABLES.items():
            values = "|".join(re.escape(value).replace("\\", "\\\\") for value in self.variable(query))
            expression = expression.replace(f"${name}", values)
        assert "$" not in expression, expression
        return expression

    def variable(self, query: str) -> list[str]:
        found = re.fullmatch(r"label_values\((\w+), (\w+)\)", query)
        assert found, query
        values: list[str] = self.get(f"label/{found[2]}/values", **{"match[]": found[1]})
        return values


@contextmanager
def running(*command: str, **options: Any) -> Iterator["subprocess.Popen[str]"]:
    """Run a program until the block ends."""
    with subprocess.Popen(command, text=True, **options) as process:
        try:
            yield process
        finally:
            process.terminate()
            process.wait(PATIENCE)


@contextmanager
def service(bundle: Path) -> Iterator[httpx.Client]:
    """The service as a process of its own, with limits low enough to run into."""
    command = ("-m", "service", "--bundle", str(bundle), "--port", "0", "--lanes", "1", "--max-body-bytes", "10000")
    with running(sys.executable, *command, cwd=ROOT, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        log = []
        for line in process.stderr:
            log.append(line)
            found = re.search(r"listening on (http://\S+)", line)
            if found:
                break
        else:
            pytest.fail("the service did not start:\n" + "".join(log))
        rest = threading.Thread(target=process.stderr.read)  # so that its log never blocks it
        rest.start()
        with httpx.Client(base_url=found[1], timeout=PATIENCE) as client:
            wait_for(lambda: client.get("/health/ready").status_code == 200)
            yield client
    rest.join()


@contextmanager
def prometheus(directory: Path, target: str) -> Iterator[httpx.Client]:
    """Prometheus with the configuration of deploy/, but for the address and a shorter interval."""
    configuration = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    configuration["global"] = {"scrape_interval": f"{SCRAPE_SECONDS}s", "evaluation_interval": f"{SCRAPE_SECONDS}s"}
    configuration["rule_files"] = [str(PROMETHEUS / name) for name in configuration["rule_files"]]
    configuration["scrape_configs"][0]["static_configs"] = [{"targets": [target]}]
    (directory / "prometheus.yml").write_text(yaml.safe_dump(configuration))
    address = f"127.0.0.1:{free_port()}"
    flags = {
        "config.file": directory / "prometheus.yml",
        "storage.tsdb.path": directory / "data",
        "web.listen-address": address,
        "log.level": "error",
    }
    binary = program("prometheus", package="prometheus")
    with (
        running(binary, *(f"--{name}={value}" for name, value in flags.items())),
        httpx.Client(base_url=f"http://{address}", timeout=PATIENCE) as client,
    ):
        wait_for(lambda: client.get("/-/ready").status_code == 200)
        yield client


def wait_for(condition: Any) -> None:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        try:
            if condition():
                return
        except httpx.TransportError:
            pass  # it does not listen yet
        time.sleep(0.05)
    pytest.fail(f"not ready after {PATIENCE} s")


def scrapes(client: httpx.Client) -> list[float]:
    """Return when Prometheus found the service ready."""
    result = client.get("/api/v1/query", params={"query": "bertheads_ready[5m]"}).json()["data"]["result"]
    return [float(when) for series in result for when, ready in series["values"] if ready == "1"]


def send_traffic(served: httpx.Client, prometheus: httpx.Client) -> set[int]:
    """Send all kinds of requests in turn until enough scrapes have seen them; return the statuses that came back."""
    statuses = set()
    end = time.monotonic() + PATIENCE
    while len(scrapes(prometheus)) < SCRAPES:
        assert time.monotonic() < end, "Prometheus does not scrape"
        for path, body, headers in TRAFFIC:
            statuses.add(served.post(path, json=body, headers=headers).status_code)
        time.sleep(0.1)  # leaves the processor to what is being tested
    return statuses


@pytest.fixture(scope="module")
def scraped(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scraped]:
    program("prometheus", package="prometheus")  # before anything is spent
    directory = tmp_path_factory.mktemp("dashboard")
    bundle = write_bundle(directory / "tiny", tokenizer)
    with service(bundle) as served, prometheus(directory, served.base_url.netloc.decode()) as client:
        statuses = send_traffic(served, client)
        seen = scrapes(client)
        yield Scraped(client, seen[0], seen[-1], statuses)


def test_the_traffic_was_mixed(scraped: Scraped) -> None:
    assert scraped.statuses >= {200, 404, 413, 422}
    assert scraped.statuses & {408, 504}  # the deadline passed, on a busy machine before the body was read


@pytest.mark.parametrize("target", QUERIES)
def test_query_has_values(scraped: Scraped, target: dict[str, Any]) -> None:
    expression = scraped.substituted(target["expr"])
    values = scraped.values(expression, target.get("instant", False))
    assert not all(math.isnan(value) for value in values), f"{expression} is empty or NaN throughout"


@pytest.mark.parametrize("name", VARIABLES)
def test_variable_has_values(scraped: Scraped, name: str) -> None:
    assert scraped.variable(VARIABLES[name])


def test_alerts_ask_for_what_there_is(scraped: Scraped) -> None:
    known = set(scraped.get("label/__name__/values"))
    rules = [rule for group in scraped.get("rules")["groups"] for rule in group["rules"]]
    assert rules
    for rule in rules:
        assert rule["health"] in ("ok", "unknown"), rule["lastError"]
        named = set(re.findall(r"\b(?:bertheads|process)_\w+", rule["query"]))
        assert named <= known, f"{rule['name']} asks for {named - known}, which nobody exports"


def test_a_healthy_service_pages_nobody(scraped: Scraped) -> None:
    alerts = [a["labels"] for a in scraped.get("alerts")["alerts"] if a["state"] == "firing"]
    assert not [labels for labels in alerts if labels["severity"] == "page"]


@pytest.mark.parametrize("panel", [pytest.param(panel, id=panel["title"]) for panel in PANELS])
def test_panel_says_what_it_shows(panel: dict[str, Any]) -> None:
    assert len(panel["description"]) > 20
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["datasource"]["uid"] == "${datasource}"
