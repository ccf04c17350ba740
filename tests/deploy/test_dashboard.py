"""If this breaks, a panel stays empty, or stays green while the service is down.

Every query runs against a real Prometheus that scraped two real services under traffic, errors and refusals included:
one with one worker, and one with two. At the end, a worker and then a service are killed. These tests are slow.
"""

import json
import math
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from models.tokenizer import Tokenizer
from service.metrics import SECONDS
from service.routes import routes
from service.settings import Settings
from tests.deploy.test_alerts import ALERTS, FILES, ON_CALL, ROOT
from tests.programs import free_port, program
from tests.service.bundles import write_bundle
from tests.service.processes import children

PROMETHEUS = ROOT / "deploy/prometheus"
DASHBOARD = json.loads((ROOT / "deploy/grafana/dashboards/bertheads.json").read_text())
SCRAPE_SECONDS = 1
RATE_INTERVAL = f"{4 * SCRAPE_SECONDS}s"  # as Grafana computes $__rate_interval
SCRAPES = 6
PATIENCE = 60.0
WORKERS = {"one": 1, "several": 2}

PANELS: list[dict[str, Any]] = [panel for panel in DASHBOARD["panels"] if panel["type"] not in ("row", "text")]
QUERIES = [pytest.param(p, target, id=f"{p['title']} {target['refId']}") for p in PANELS for target in p["targets"]]
VARIABLES: dict[str, dict[str, Any]] = {v["name"]: v for v in DASHBOARD["templating"]["list"]}
QUERIED = {name: v["query"]["query"] for name, v in VARIABLES.items() if v["type"] == "query"}
TASKS = VARIABLES["tasks"]["query"]
ROWS = [number for number, panel in enumerate(DASHBOARD["panels"]) if panel["type"] == "row"]
FIRST_ROW = {panel["title"]: panel for panel in DASHBOARD["panels"][ROWS[0] : ROWS[1]] if panel["type"] == "stat"}

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
    """A Prometheus that has scraped services under traffic from `start` to `end`, in seconds since 1970."""

    client: httpx.Client
    processes: dict[str, "subprocess.Popen[str]"]
    instances: dict[str, str]
    """Addresses of the services, by name."""
    start: float
    end: float
    statuses: set[int]

    def get(self, path: str, **parameters: Any) -> Any:
        answer = self.client.get(f"/api/v1/{path}", params=parameters).json()
        assert answer["status"] == "success", answer
        return answer["data"]

    def values(self, target: dict[str, Any], *services: str) -> list[float]:
        """Return all values, as the panel asks for them: those of an instant, or of a range of time."""
        expression = self.substituted(target["expr"], *services)
        if target.get("instant"):
            result = self.get("query", query=expression, time=self.end)["result"]
            return [float(series["value"][1]) for series in result]
        span = {"start": self.start, "end": self.end, "step": SCRAPE_SECONDS}
        result = self.get("query_range", query=expression, **span)["result"]
        return [float(value) for series in result for _, value in series["values"]]

    def color(self, title: str, *services: str) -> str:
        """Return the color that a field of the first row has for some services."""
        panel = FIRST_ROW[title]
        values = self.values(panel["targets"][0], *services)
        return color(panel["fieldConfig"]["defaults"], values[0] if values else None)

    def substituted(self, expression: str, *services: str) -> str:
        """Put in what Grafana would for variables at "All", except for that of the instance."""
        expression = expression.replace("$__rate_interval", RATE_INTERVAL).replace("$tasks", quoted(TASKS))
        expression = expression.replace("$instance", pattern(self.instances[name] for name in services))
        for name, query in QUERIED.items():
            expression = expression.replace(f"${name}", pattern(self.variable(query)))
        assert "$" not in expression, expression
        return expression

    def variable(self, query: str) -> list[str]:
        found = re.fullmatch(r"label_values\((.+), (\w+)\)", query)
        assert found, query
        selector = found[1].replace("$job", "bertheads")
        values: list[str] = self.get(f"label/{found[2]}/values", **{"match[]": selector})
        return values

    def at(self, moment: float) -> "Scraped":
        """Return the same at another time."""
        return replace(self, end=moment)


def color(defaults: dict[str, Any], value: float | None) -> str:
    """Return the color of a field in Grafana: of the text for no value, or of the last threshold that is reached."""
    matched = "null" if value is None else "nan" if math.isnan(value) else ""
    for mapping in defaults["mappings"]:
        if mapping["options"]["match"] == matched:
            return str(mapping["options"]["result"]["color"])
    assert value is not None
    reached = [s["color"] for s in defaults["thresholds"]["steps"] if s["value"] is None or value >= s["value"]]
    return str(reached[-1])


def quoted(expression: str) -> str:
    return expression.replace("\\", "\\\\")


def pattern(values: Any) -> str:
    return quoted("|".join(map(re.escape, values)))


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
def service(bundle: Path, workers: int) -> Iterator[tuple["subprocess.Popen[str]", httpx.Client]]:
    """The service as a process of its own, with limits low enough to run into."""
    flags = {"bundle": bundle, "port": 0, "lanes": 1, "max-body-bytes": 10000, "workers": workers}
    command = ("-m", "service", *(f"--{name}={value}" for name, value in flags.items()))
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
            yield process, client
    rest.join()


def rules(directory: Path) -> list[str]:
    """Copy the files of rules, without intervals of their own, which are longer than this test."""
    for path in FILES:
        groups = yaml.safe_load(path.read_text())["groups"]
        short = [{key: value for key, value in group.items() if key != "interval"} for group in groups]
        (directory / path.name).write_text(yaml.safe_dump({"groups": short}))
    return [str(directory / path.name) for path in FILES]


@contextmanager
def prometheus(directory: Path, targets: list[str]) -> Iterator[httpx.Client]:
    """Prometheus with the configuration of deploy/, except for addresses and a shorter interval."""
    configuration = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    configuration["global"] = {"scrape_interval": f"{SCRAPE_SECONDS}s", "evaluation_interval": f"{SCRAPE_SECONDS}s"}
    configuration["rule_files"] = rules(directory)
    configuration["scrape_configs"][0]["static_configs"] = [{"targets": targets}]
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
    """Return when Prometheus found all workers of both services ready."""
    query = f"(count(bertheads_ready == bertheads_workers) == {len(WORKERS)})[5m:{SCRAPE_SECONDS}s]"
    result = client.get("/api/v1/query", params={"query": query}).json()["data"]["result"]
    return [float(when) for series in result for when, _ in series["values"]]


def send_traffic(served: list[httpx.Client], prometheus: httpx.Client) -> set[int]:
    """Send all kinds of requests in turn until enough scrapes have seen them; return the statuses that came back."""
    statuses = set()
    end = time.monotonic() + PATIENCE
    while len(scrapes(prometheus)) < SCRAPES:
        assert time.monotonic() < end, "Prometheus does not scrape"
        for path, body, headers in TRAFFIC:
            statuses |= {each.post(path, json=body, headers=headers).status_code for each in served}
        time.sleep(0.4)  # leaves the processor to what is being tested
    return statuses


@pytest.fixture(scope="module")
def scraped(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scraped]:
    program("prometheus", package="prometheus")  # before anything is spent
    directory = tmp_path_factory.mktemp("dashboard")
    bundle = write_bundle(directory / "tiny", tokenizer)
    with ExitStack() as stack:
        started = {name: stack.enter_context(service(bundle, workers)) for name, workers in WORKERS.items()}
        clients = [client for _, client in started.values()]
        for client in clients:
            wait_for(lambda client=client: client.get("/health/ready").status_code == 200)
        instances = {name: client.base_url.netloc.decode() for name, (_, client) in started.items()}
        asked = stack.enter_context(prometheus(directory, list(instances.values())))
        statuses = send_traffic(clients, asked)
        seen = scrapes(asked)
        processes = {name: process for name, (process, _) in started.items()}
        yield Scraped(asked, processes, instances, seen[0], seen[-1], statuses)


@pytest.mark.slow
def test_the_traffic_was_mixed(scraped: Scraped) -> None:
    assert scraped.statuses >= {200, 404, 413, 422}
    assert scraped.statuses & {408, 504}  # the deadline passed, on a busy machine before the body was read


@pytest.mark.slow
@pytest.mark.parametrize("name", WORKERS)
@pytest.mark.parametrize(("panel", "target"), QUERIES)
def test_every_query_has_values(scraped: Scraped, panel: dict[str, Any], target: dict[str, Any], name: str) -> None:
    values = scraped.values(target, name)
    if all(map(math.isnan, values)):
        assert "Empty w" in panel["description"], f"{target['expr']} is empty or NaN throughout, with {name} worker"
        assert "noValue" in panel["fieldConfig"]["defaults"]


@pytest.mark.slow
@pytest.mark.parametrize("annotation", [pytest.param(a, id=a["name"]) for a in DASHBOARD["annotations"]["list"]])
def test_annotations_are_valid_queries(scraped: Scraped, annotation: dict[str, Any]) -> None:
    values = scraped.values(annotation, *WORKERS)
    assert values or annotation["name"] != "Deployments"


@pytest.mark.slow
@pytest.mark.parametrize("name", QUERIED)
def test_every_variable_has_values(scraped: Scraped, name: str) -> None:
    assert scraped.variable(QUERIED[name])


@pytest.mark.slow
def test_queries_of_the_on_call_page_are_valid(scraped: Scraped) -> None:
    queries = re.findall(r"'query=(.*?)'$", ON_CALL.read_text(), re.MULTILINE)
    assert len(queries) > 10
    known = set(scraped.get("label/__name__/values"))
    for query in queries:
        scraped.get("query", query=query)
        assert set(re.findall(r"\b(?:bertheads|process)_\w+", query)) <= known | {"bertheads_key_requests_total"}, query


@pytest.mark.slow
def test_rules_query_only_metrics_that_exist(scraped: Scraped) -> None:
    known = set(scraped.get("label/__name__/values"))
    found = [rule for group in scraped.get("rules")["groups"] for rule in group["rules"]]
    assert {rule["name"] for rule in found} >= set(ALERTS)
    for rule in found:
        assert rule["health"] in ("ok", "unknown"), rule["lastError"]
        named = set(re.findall(r"\b(?:(?:bertheads|process)_\w+|bertheads:[\w:]+)", rule["query"]))
        assert named <= known, f"{rule['name']} asks for {named - known}, which nobody exports"


@pytest.mark.slow
def test_a_healthy_service_pages_nobody(scraped: Scraped) -> None:
    alerts = [a["labels"] for a in scraped.get("alerts")["alerts"] if a["state"] == "firing"]
    assert not [labels for labels in alerts if labels["severity"] == "page"]
    assert {scraped.color(title, *WORKERS) for title in ("Up", "Ready", "Lanes", "Pages firing")} == {"green"}


@pytest.mark.parametrize("panel", [pytest.param(panel, id=panel["title"]) for panel in PANELS])
def test_every_panel_describes_what_it_shows(panel: dict[str, Any]) -> None:
    assert len(panel["description"]) > 20
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["datasource"]["uid"] == "${datasource}"


@pytest.mark.parametrize(("panel", "target"), QUERIES)
def test_every_query_filters_by_the_chosen_job_and_instance(panel: dict[str, Any], target: dict[str, Any]) -> None:
    for selector in re.findall(r"\b(?:(?:bertheads|process)_\w+|up)\{([^}]*)\}", target["expr"]):
        assert selector.startswith('job=~"$job", instance=~"$instance"'), target["expr"]
    assert not re.search(r"\b(?:(?:bertheads|process)_\w+)(?!\w|\{)", target["expr"].replace("$", "")), target["expr"]
    durations = panel["type"] != "stat" and re.search(r"seconds_bucket\{(?!.*le=)", target["expr"])
    assert target.get("exemplar", False) == bool(durations)


def test_every_alert_has_a_panel_whose_link_leads_to_its_section() -> None:
    links = [link["url"] for panel in PANELS for link in panel.get("links", ())]
    sections = {alert.lower() for alert in ALERTS}
    assert {url.partition("docs/on_call.md#")[2] for url in links} == sections


def test_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for place in (panel["gridPos"] for panel in DASHBOARD["panels"]):
        cells = {(place["x"] + i, place["y"] + j) for i in range(place["w"]) for j in range(place["h"])}
        assert not cells & taken and place["x"] + place["w"] <= 24
        taken |= cells
    identifiers = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(identifiers)) == len(identifiers)


def test_tasks_are_what_objectives_and_panels_count() -> None:
    posted = {route.path for route in routes(Settings()) if "POST" in (route.methods or ())}
    tasks = {path for path in posted if not path.startswith("/v2/repository")}
    known = {route.path for route in routes(Settings())} | {"/", "other", "/docs", "/openapi.json"}
    assert {path for path in known if re.fullmatch(TASKS, path)} == tasks
    text = (PROMETHEUS / "slo.yml").read_text()
    assert set(re.findall(r'route=~"([^"]+)"', text)) == {TASKS}
    bounds = re.findall(r'le="([^"]+)"', text + json.dumps(DASHBOARD).replace('\\"', '"'))
    assert bounds and set(map(float, bounds)) <= set(SECONDS)


# ---- from here on, things are killed ----


@pytest.mark.slow
def test_a_worker_that_is_killed_turns_ready_and_lanes_red(scraped: Scraped) -> None:
    killed = time.time()
    os.kill(children(scraped.processes["several"].pid)[0], signal.SIGKILL)

    def red(title: str) -> bool:
        moments = [killed + seconds / 2 for seconds in range(int(2 * (time.time() - killed)))]
        return any(scraped.at(moment).color(title, *WORKERS) == "red" for moment in moments)

    wait_for(lambda: red("Ready") and red("Lanes"))


@pytest.mark.slow
def test_a_service_that_is_killed_turns_the_first_row_red(scraped: Scraped) -> None:
    scraped.processes["one"].kill()
    gone = f"absent(count_over_time(bertheads_ready{{instance='{scraped.instances['one']}'}}[{RATE_INTERVAL}]))"
    later = f"sum(up) == {len(WORKERS) - 1} and {gone}"
    wait_for(lambda: scraped.get("query", query=later)["result"])
    now = scraped.at(time.time())
    assert {now.color(title, *WORKERS) for title in ("Up", "Ready", "Lanes")} == {"red"}
    alone = {title: now.color(title, "one") for title in FIRST_ROW if title != "Pages firing"}  # that takes a minute
    assert set(alone.values()) == {"red"}, alone
