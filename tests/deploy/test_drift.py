"""If this breaks, traffic changes and nobody notices, or a ticket is opened for text like the validation data.

A real service answers the inputs of one day after another; its real counters, spread over the last day, are what a real
Prometheus evaluates deploy/prometheus/drift.yml on. Each day is a job of its own.
"""

import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from scipy.special import rel_entr

from models.bundle import read_bundle, seal
from models.predictor import Predictor
from models.task import HeadSpec
from models.tokenizer import Tokenizer
from tests.programs import free_port, program
from tests.service.bundles import write_bundle
from tests.service.serving import Served, serving, until
from training.parity.reference_figures import reference_of
from training.text.examples import TextExample

RULES = Path(__file__).parents[2] / "deploy/prometheus/drift.yml"
DAY, STEP, PARTS = 86_400, 600, 12
WORDS = "the cat dog man woman house city red big old small walks sees lives in sea door and".split()
HEAD = {"mood": HeadSpec("classify", ["bad", "fair", "good"])}

Series = tuple[str, tuple[tuple[str, str], ...]]
"""Name and labels."""
Page = dict[Series, float]


@dataclass(frozen=True)
class Day:
    """What scrapes of one instance would have seen, at equal distances over a day."""

    job: str
    pages: list[Page]
    instance: str = "one"


def texts(count: int, seed: int) -> list[str]:
    generator = np.random.default_rng(seed)
    return [" ".join(generator.choice(WORDS, generator.integers(3, 15))) for _ in range(count)]


def other_texts(count: int) -> list[str]:
    """Long ones, in other scripts too."""
    generator = np.random.default_rng(7)
    return [" ".join(generator.choice([*WORDS, "日本", "мир", "☃"], generator.integers(30, 90))) for _ in range(count)]


# ---- the service's figures -------------------------------------------------------------------------------------------


def write_referenced(out: Path, tokenizer: Tokenizer) -> Path:
    """Write a bundle that has the reference figures of 1,000 texts."""
    bundle = read_bundle(write_bundle(out, tokenizer, HEAD))
    examples = [TextExample(text, "bad") for text in texts(1000, seed=0)]
    reference = reference_of(Predictor(bundle), "mood", examples)
    entry = bundle.manifest.heads["mood"].model_copy(update={"reference": reference})
    seal(out, bundle.manifest.model_copy(update={"heads": {"mood": entry}}))
    return out


def page(served: Served) -> Page:
    """Return the figures of drift as the service exposes them."""
    families = text_string_to_metric_families(served.service.metrics.expose().decode())
    samples = [sample for family in families for sample in family.samples]
    return {
        (one.name, tuple(sorted(one.labels.items()))): one.value
        for one in samples
        if one.name.startswith(("bertheads_drift_", "bertheads_reference_"))
    }


def a_day(served: Served, job: str, inputs: Sequence[str]) -> Day:
    """Send inputs over a day, and note what a scrape sees; the day begins with a service that starts."""
    before, pages = page(served), []
    for part in np.array_split(np.array(inputs), PARTS):
        pages.append(_since(before, page(served)))
        served.answer("/classify", part.tolist())
    return Day(job, [*pages, _since(before, page(served))])


def _since(before: Page, after: Page) -> Page:
    return {series: value - before[series] * series[0].endswith("_total") for series, value in after.items()}


def with_reset(day: Day, job: str) -> Day:
    """Let the counters begin again at half a day."""
    half = len(day.pages) // 2
    return Day(job, [*day.pages[: half + 1], *(_since(day.pages[half], one) for one in day.pages[half + 1 :])])


def with_reload(day: Day, job: str) -> Day:
    """Let the first half have other reference shares."""
    half = len(day.pages) // 2
    changed = [
        {series: value / 2 if series[0].endswith("_share") else value for series, value in one.items()}
        for one in day.pages[:half]
    ]
    return Day(job, [*changed, *day.pages[half:]])


def drawn(job: str, seed: int) -> Day:
    """Return a day of random counts and shares, some of them of empty bins or of bins that are not in use any more."""
    generator = np.random.default_rng(seed)
    bins = int(generator.integers(2, 12))
    shares = np.maximum(generator.dirichlet(np.ones(bins)), 0.5 / 1000)
    counts = np.floor(1000 * generator.dirichlet(np.full(bins, 0.5)) * generator.integers(0, 2, bins))
    end: Page = {("bertheads_reference_inputs", (("head", "h"),)): 1000.0}
    for number, (share, count) in enumerate(zip([*shares, 0.0], [*counts, 500.0], strict=True)):
        labels = (("bin", str(number)), ("figure", "tokens"), ("head", "h"))
        end |= {("bertheads_reference_share", labels): share, ("bertheads_drift_inputs_total", labels): count}
    return Day(job, [{series: value * (not series[0].endswith("_total")) for series, value in end.items()}, end])


# ---- Prometheus ------------------------------------------------------------------------------------------------------


def open_metrics(days: Sequence[Day], end: float) -> Iterator[str]:
    """Yield the lines of days that end at `end`, in the format of OpenMetrics: a sample each STEP seconds."""
    names = sorted({name for day in days for one in day.pages for name, _ in one})
    for name in names:
        yield f"# TYPE {name.removesuffix('_total')} {'counter' if name.endswith('_total') else 'gauge'}"
        for day in days:
            for series in [each for each in day.pages[-1] if each[0] == name]:
                labels = (("job", day.job), ("instance", day.instance), *series[1])
                shown = ",".join(f'{key}="{value}"' for key, value in labels)
                for moment in range(0, DAY, STEP):
                    place = -(-moment * (len(day.pages) - 1) // (DAY - STEP))
                    yield f"{name}{{{shown}}} {day.pages[place][series]} {end - DAY + STEP + moment}"
    yield "# EOF"


@dataclass(frozen=True)
class Evaluated:
    """A Prometheus that has evaluated the rules."""

    client: httpx.Client
    at: float
    """When they were evaluated: two queries without a time could see two evaluations."""

    def values(self, query: str) -> dict[tuple[str, str, str], float]:
        """Return the value of each job, figure and bin, "" where there is none."""
        found = self.client.get("/api/v1/query", params={"query": query, "time": str(self.at)}).json()["data"]["result"]
        return {_key(one["metric"]): float(one["value"][1]) for one in found}

    def firing(self, job: str) -> set[str]:
        """Return the figures for which the alert fires."""
        found = self.values('ALERTS{alertname="BertheadsDrift",alertstate="firing"}')
        return {figure for of, figure, _ in found if of == job}


def _key(labels: dict[str, str]) -> tuple[str, str, str]:
    return labels["job"], labels.get("figure", ""), labels.get("bin", "")


def write_days(directory: Path, days: Sequence[Day]) -> None:
    """Fill the storage of Prometheus."""
    text = directory / "days.txt"
    text.write_text("\n".join(open_metrics(days, time.time())) + "\n", encoding="utf8")
    command = [program("promtool", package="prometheus"), "tsdb", "create-blocks-from", "openmetrics"]
    subprocess.run([*command, text, directory / "data"], check=True, capture_output=True)


@pytest.fixture(scope="module")
def days(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> list[Day]:
    program("prometheus", package="prometheus")  # before anything is spent
    bundle = write_referenced(tmp_path_factory.mktemp("drift") / "tiny", tokenizer)
    with serving(bundle) as served:
        pool = texts(4000, seed=1)
        labels = [answer[0]["label"] for answer in served.answer("/classify", pool[:256])]
        common = max(set(labels), key=labels.count)
        alone = [text for text, label in zip(pool, labels, strict=False) if label == common]
        other = a_day(served, "other text", other_texts(800))
        return [
            a_day(served, "same text", pool[:800]),
            a_day(served, "few inputs", pool[:50]),
            a_day(served, "one label", (alone * 10)[:800]),
            other,
            a_day(served, "few other inputs", other_texts(50)),
            with_reset(other, "other text, restarted"),
            with_reset(a_day(served, "", pool[800:1600]), "same text, restarted"),
            with_reload(other, "other text, reloaded"),
            Day("two instances", other.pages),
            Day("two instances", other.pages, "two"),
            *(drawn(f"drawn {seed}", seed) for seed in range(6)),
        ]


@pytest.fixture(scope="module")
def evaluated(days: list[Day], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Evaluated]:
    directory = tmp_path_factory.mktemp("prometheus")
    write_days(directory, days)
    rules: dict[str, Any] = yaml.safe_load(RULES.read_text())
    rules["groups"][0]["interval"] = "1s"
    (directory / "rules.yml").write_text(yaml.safe_dump(rules))
    (directory / "prometheus.yml").write_text(yaml.safe_dump({"rule_files": [str(directory / "rules.yml")]}))
    address = f"127.0.0.1:{free_port()}"
    flags = {
        "config.file": directory / "prometheus.yml",
        "storage.tsdb.path": directory / "data",
        "web.listen-address": address,
        "log.level": "error",
    }
    command = [program("prometheus", package="prometheus"), *(f"--{name}={value}" for name, value in flags.items())]
    with subprocess.Popen(command) as process, httpx.Client(base_url=f"http://{address}") as client:
        try:
            until(lambda: evaluation(client))
            yield Evaluated(client, evaluation(client))
        finally:
            process.terminate()


def evaluation(client: httpx.Client) -> float:
    """Return the time of the newest evaluation; 0 before the first one. The alerts are its last rules."""
    try:
        if client.get("/-/ready").status_code != 200:
            return 0.0
        newest = Evaluated(client, time.time()).values("max by (job) (timestamp(ALERTS))")
    except httpx.TransportError:
        return 0.0
    return max(newest.values(), default=0.0)


def test_the_same_kind_of_text_is_not_drift(evaluated: Evaluated) -> None:
    index = evaluated.values("bertheads:drift:psi1d")
    same = {figure: index["same text", figure, ""] for figure in ("label", "confidence", "tokens", "unknown")}
    assert max(same.values()) < 0.1, same
    assert evaluated.firing("same text") == evaluated.firing("same text, restarted") == set()


def test_other_text_fires(evaluated: Evaluated) -> None:
    assert evaluated.firing("other text") >= {"tokens", "unknown", "truncated"}


def test_one_label_fires_for_the_label_alone(evaluated: Evaluated) -> None:
    assert evaluated.firing("one label") == {"label"}


def test_a_few_inputs_fire_no_alert(evaluated: Evaluated) -> None:
    assert evaluated.firing("few inputs") == evaluated.firing("few other inputs") == set()


def test_a_restart_loses_no_input(evaluated: Evaluated) -> None:
    index = evaluated.values("bertheads:drift:psi1d")
    assert evaluated.firing("other text, restarted") >= {"tokens", "unknown", "truncated"}
    assert index["other text, restarted", "tokens", ""] == pytest.approx(index["other text", "tokens", ""], rel=0.1)


def test_nothing_fires_for_a_day_after_a_reload_with_other_figures(evaluated: Evaluated) -> None:
    assert evaluated.firing("other text, reloaded") == set()


def test_instances_are_added_up(evaluated: Evaluated) -> None:
    inputs = evaluated.values("sum by (job, figure) (bertheads:drift:inputs1d)")
    assert inputs["two instances", "tokens", ""] == pytest.approx(2 * inputs["other text", "tokens", ""])


@pytest.mark.parametrize("seed", range(6))
def test_the_index_is_the_symmetric_relative_entropy(evaluated: Evaluated, days: list[Day], seed: int) -> None:
    """J. Lin (1991): the index of PromQL equals KL(p, q) + KL(q, p) of scipy, bins out of use left out."""
    job = f"drawn {seed}"
    reference = {bin: v for (of, _, bin), v in evaluated.values("bertheads_reference_share").items() if of == job and v}
    found = {bin: v for (of, _, bin), v in evaluated.values("bertheads:drift:inputs1d").items() if of == job}
    assert found.keys() == reference.keys()
    [end] = [day.pages[-1] for day in days if day.job == job]
    sent = {dict(labels)["bin"]: value for (name, labels), value in end.items() if name.endswith("_total")}
    assert all(found[bin] == pytest.approx(sent[bin], rel=0.05) for bin in found)
    p, q = (np.array([one[bin] for bin in reference]) for one in ({k: v + 0.5 for k, v in found.items()}, reference))
    p /= p.sum()
    expected = float((rel_entr(p, q) + rel_entr(q, p)).sum())
    assert evaluated.values("bertheads:drift:psi1d").get((job, "tokens", ""), 0.0) == pytest.approx(
        expected if sum(found.values()) else 0.0, rel=1e-9
    )


def test_the_index_that_chance_alone_gives_is_as_expected(evaluated: Evaluated) -> None:
    """Draw days from the validation shares themselves: the mean of their index is what the alert allows for."""
    generator, shares, day, validation = np.random.default_rng(0), np.full(10, 0.1), 800, 1000
    p = (generator.multinomial(day, shares, 20_000) + 0.5) / (day + 5)
    q = np.maximum(generator.multinomial(validation, shares, 20_000) / validation, 0.5 / validation)
    mean = float((rel_entr(p, q) + rel_entr(q, p)).sum(axis=1).mean())
    assert mean == pytest.approx(9 * (1 / day + 1 / validation), rel=0.05)
    expected = evaluated.values("bertheads:drift:expected1d")["same text", "label", ""]
    assert expected == pytest.approx(2 * (1 / day + 1 / validation), rel=0.05)
