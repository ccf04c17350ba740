"""If this breaks, inputs are stored without consent, are not training data, or a disk stops the service."""

import fcntl
import json
import os
import re
import signal
import stat
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import ValidationError

from models.task import HeadSpec
from models.tokenizer import Tokenizer
from service import samples
from service.errors import SettingsError
from service.settings import Settings
from tests.service.bundles import HEADS, write_bundle
from tests.service.processes import children, process
from tests.service.serving import Served, serving, until
from training.text.examples import read_examples

OTHERS = {
    "flags": HeadSpec("classify", ["a", "b", "c"], problem_type="multi_label_classification"),
    "stars": HeadSpec("classify", ["stars"], problem_type="regression"),
}
TEXT = "the cat sees a dog — “quoted”\nand a second line"


@pytest.fixture(scope="module")
def bundle(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("bundles") / "tiny", tokenizer, HEADS | OTHERS)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "samples.jsonl"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of the server that several tests share."""
    return tmp_path_factory.mktemp("samples") / "shared.jsonl"


@pytest.fixture(scope="module")
def served(bundle: Path, shared: Path) -> Iterator[Served]:
    with serving(bundle, sample_file=shared, sample_percent=100) as served:
        yield served


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf8").splitlines()] if file.exists() else []


def stored(served: Served, result: str = "written") -> float:
    return served.sample("samples_total", result=result)


def sampled(served: Served, file: Path, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    """Send a request, and return what was stored of it."""
    before = len(lines(file))
    response = served.client.post(path, json=body, headers={"X-Request-Id": "mine"})
    assert response.status_code == 200, response.text
    served.service.samples._put(b"{}\n")  # type: ignore[union-attr]  # the last one: what comes before it is written then
    until(lambda: lines(file)[before:][-1:] == [{}])
    return lines(file)[before:-1]


# ---- lines -----------------------------------------------------------------------------------------------------------


REQUESTS: dict[str, tuple[str, dict[str, Any]]] = {
    "classify": ("/classify", {"inputs": TEXT}),
    "classify several": ("/classify/flags", {"inputs": [TEXT, "a dog"]}),
    "classify regression": ("/classify/stars", {"inputs": TEXT}),
    "classify nothing": ("/classify", {"inputs": TEXT, "parameters": {"threshold": 1.0}}),
    "classify raw several": ("/classify/flags", {"inputs": TEXT, "parameters": {"function_to_apply": "none"}}),
    "pair": ("/pair/nli", {"inputs": {"text": TEXT, "text_pair": "a dog"}}),
    "tag": ("/tag", {"inputs": TEXT}),
    "tag each": ("/tag", {"inputs": TEXT, "parameters": {"aggregation_strategy": "none"}}),
    "tag redacted": ("/tag", {"inputs": TEXT, "parameters": {"redact": True}}),
    "tag words": ("/tag", {"inputs": ["the", "cat", "sees"], "parameters": {"is_split_into_words": True}}),
    "tag each word": (
        "/tag",
        {"inputs": ["the", "cat"], "parameters": {"is_split_into_words": True, "aggregation_strategy": "none"}},
    ),
    "qa": ("/qa", {"inputs": {"question": "who sees?", "context": TEXT}}),
    "qa ranked": ("/qa", {"inputs": {"question": "who?", "context": TEXT}, "parameters": {"top_k": 3}}),
    "qa nothing": (
        "/qa",
        {
            "inputs": {"question": "who?", "context": TEXT},
            "parameters": {"handle_impossible_answer": True, "no_answer_threshold": -1e9},
        },
    ),
    "fill-mask": ("/fill-mask", {"inputs": "the [MASK] sees a [MASK]"}),
    "vLLM": ("/classify", {"input": TEXT}),
    "KServe 1": ("/v1/models/sentiment:predict", {"instances": [TEXT]}),
    "KServe 2": (
        "/v2/models/flags/infer",
        {
            "inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": [TEXT]}],
            "outputs": [{"name": "label"}, {"name": "scores"}],
        },
    ),
    "several heads": ("/heads", {"inputs": TEXT, "heads": ["sentiment", "ner"]}),
}
LABELS = {"tag": "spans", "qa": "answers"}
"""Where training reads a label by task; "tags" of given words."""


@pytest.mark.parametrize("name", REQUESTS)
def test_a_line_is_training_data_once_its_prediction_is_a_label(
    served: Served, shared: Path, tmp_path: Path, name: str
) -> None:
    path, body = REQUESTS[name]
    found = sampled(served, shared, path, body)
    assert len(found) == (2 if name in ("classify several", "several heads") else 1)
    for number, line in enumerate(found):
        assert line["sample"].keys() == {"score", "head", "bundle", "time", "request_id"}
        assert (line["sample"]["bundle"], line["sample"]["request_id"]) == ("tiny/1.2.3", "mine")
        task = (HEADS | OTHERS)[line["sample"]["head"]].task
        if line["prediction"] is None:
            assert name in ("classify nothing", "classify raw several")
            continue
        key = "tags" if "tokens" in line else LABELS.get(task, "label")
        labeled = tmp_path / f"{number}.jsonl"
        labeled.write_text(json.dumps(line | {key: line["prediction"], "id": "1"}) + "\n", encoding="utf8")
        [example] = read_examples(labeled, task)
        [given] = [line[key] for key in ("text", "tokens", "text_a", "context") if key in line]
        assert given in [getattr(example, field) for field in type(example).__slots__]


def test_a_prediction_is_what_was_answered(served: Served, shared: Path) -> None:
    answer = served.answer("/tag", TEXT)
    line = sampled(served, shared, "/tag", {"inputs": TEXT})[-1]
    assert line["prediction"] == [[one["start"], one["end"], one["entity_group"]] for one in answer]
    assert line["sample"]["score"] == answer[0]["score"]
    [[best, _]] = served.answer("/classify", [TEXT])
    line = sampled(served, shared, "/classify", {"inputs": TEXT})[-1]
    assert (line["prediction"], line["sample"]["score"]) == (best["label"], best["score"])


def test_neighboring_tags_are_one_span() -> None:
    units = [("B-PER", 0, 4), ("I-PER", 5, 9), ("B-PER", 10, 12), ("I-LOC", 13, 15), ("NOUN", 16, 18), ("NOUN", 19, 21)]
    given = [{"entity": label, "start": start, "end": end} for label, start, end in units]
    assert samples._spans(given) == [
        *([0, 9, "PER"], [10, 12, "PER"], [13, 15, "LOC"]),
        *([16, 18, "NOUN"], [19, 21, "NOUN"]),
    ]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/zero-shot/nli", {"inputs": TEXT, "parameters": {"candidate_labels": ["a", "b"]}}),
        ("/classify/none", {"inputs": TEXT}),
        ("/classify", {"inputs": TEXT, "parameters": {"top_k": 99}}),
    ],
)
def test_answers_that_are_no_training_data_are_not_stored(
    served: Served, shared: Path, path: str, body: dict[str, Any]
) -> None:
    before = len(lines(shared))
    served.client.post(path, json=body)
    [line] = sampled(served, shared, "/classify", {"inputs": "the cat"})
    assert line["text"] == "the cat" and len(lines(shared)) == before + 2  # with the empty one that `sampled` adds


# ---- share and limits ------------------------------------------------------------------------------------------------


def test_nothing_is_stored_by_default(bundle: Path, tmp_path: Path) -> None:
    with serving(bundle) as served:
        served.answer("/classify", TEXT)
        assert served.service.samples is None
    assert not list(tmp_path.iterdir())


def test_the_percentage_is_a_share_of_inputs(bundle: Path, file: Path) -> None:
    with serving(bundle, sample_file=file, sample_percent=25) as served:
        for number in range(10):
            served.answer("/classify", [f"text {number} {index}" for index in range(200)])
    found = lines(file)
    assert len({line["text"] for line in found}) == len(found)
    assert 420 < len(found) < 580, "2,000 inputs: 500 give or take four standard deviations"


def test_a_full_file_is_reported_once_and_not_exceeded(
    bundle: Path, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    with serving(bundle, sample_file=file, sample_percent=100, sample_max_bytes=2000) as served:
        served.answer("/classify", [TEXT] * 50)
        until(lambda: stored(served) + stored(served, "full") == 50)
        assert 1500 < file.stat().st_size <= 2000 and len(lines(file)) == stored(served)
        assert len([record for record in caplog.records if "inputs are no longer stored" in record.message]) == 1
        file.rename(file.with_suffix(".1"))  # as a rotation does
        served.answer("/classify", TEXT)
        until(lambda: len(lines(file)) == 1)
        until(lambda: "inputs are stored in" in caplog.text)  # the line comes after the write


def test_an_existing_file_is_appended_to_and_only_its_owner_can_read_it(bundle: Path, file: Path) -> None:
    file.write_text('{"text": "a line that a person left without its end"}')
    file.chmod(0o644)
    with serving(bundle, sample_file=file, sample_percent=100) as served:
        served.answer("/classify", TEXT)
    assert len(lines(file)) == 2 and stat.S_IMODE(file.stat().st_mode) == 0o600


# ---- faults ----------------------------------------------------------------------------------------------------------


def test_a_file_that_is_no_longer_writable_fails_no_request(
    bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    directory = tmp_path / "gone"
    directory.mkdir()
    with serving(bundle, sample_file=directory / "s.jsonl", sample_percent=100) as served:
        directory.rename(tmp_path / "moved")
        for _ in range(3):
            served.answer("/classify", TEXT)
        until(lambda: stored(served, "failed") == 3)
        assert caplog.text.count("s.jsonl cannot be written (No such file or directory)") == 1
        directory.mkdir()
        served.answer("/classify", TEXT)
        until(lambda: stored(served) == 1)


def test_a_disk_that_stalls_stops_nothing(bundle: Path, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "MAX_WAITING_BYTES", 5000)
    with serving(bundle, sample_file=file, sample_percent=100) as served:
        with file.open("ab") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            served.answer("/classify", [TEXT] * 100)
            assert stored(served, "busy") > 50 and stored(served) == 0
        until(lambda: stored(served) + stored(served, "busy") == 100)
        assert len(lines(file)) == stored(served) > 0


FULL_DISK = """
import resource, sys
from pathlib import Path
from service.samples import SampleFile
resource.setrlimit(resource.RLIMIT_FSIZE, (1050, 1050))
file = SampleFile(Path(sys.argv[1]), 10**9)
for _ in range(12):
    print(*file.append(b"x" * 99 + b"\\n"))
"""


def test_a_full_disk_leaves_no_half_line(file: Path) -> None:
    run = subprocess.run([sys.executable, "-c", FULL_DISK, str(file)], capture_output=True, text=True, check=True)
    assert run.stdout.split("\n").count("written ") == 10
    assert run.stdout.count("failed") == 2 and "no space left: only 50 of 100 bytes were written" in run.stdout
    assert file.read_bytes() == (b"x" * 99 + b"\n") * 10


def refusal(bundle: Path, *flags: str) -> str:
    command = [sys.executable, "-m", "service", "--port", "0", "--bundle", str(bundle), *flags]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert run.returncode == 1, run.stderr
    return run.stderr.splitlines()[-1]


def test_a_file_that_cannot_be_written_is_reported_at_the_start(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    os.mkfifo(tmp_path / "pipe")
    reasons = {
        tmp_path: "Is a directory",
        tmp_path / "none" / "s.jsonl": "No such file or directory",
        tmp_path / "link": "a symbolic link",
        tmp_path / "pipe": "not a regular file",
        Path("/dev/null"): "not a regular file",
    }
    for path, reason in reasons.items():
        with pytest.raises(SettingsError, match=re.escape(f"{path} cannot be written ({reason}); name a file")):
            samples.check(Settings(bundles=(bundle,), sample_file=path))
    sentence = refusal(bundle, "--sample-file", str(tmp_path))
    assert sentence.startswith(f"bertheads-serve: --sample-file (BERTHEADS_SAMPLE_FILE): {tmp_path} cannot be written")


@pytest.mark.parametrize(("name", "value"), [("sample_percent", 0), ("sample_percent", 101), ("sample_max_bytes", 10)])
def test_a_setting_out_of_range_is_refused(name: str, value: float) -> None:
    with pytest.raises(ValidationError):
        Settings(**{name: value})  # type: ignore[arg-type]


# ---- processes -------------------------------------------------------------------------------------------------------


def test_several_workers_write_whole_lines_and_say_that_they_do(bundle: Path, file: Path) -> None:
    flags = ("--bundle", str(bundle), "--workers", "2", "--lanes", "1")
    with process(*flags, "--sample-file", str(file), "--sample-percent", "100") as (running, url):
        assert running.stderr
        said = running.stderr.readline()
        assert f"WARNING inputs are being stored: 100 % of those that are answered go to {file}, up to 67108864" in said
        until(lambda: '"ready":2' in httpx.get(f"{url}/health/ready", timeout=20).text)

        def ask(number: int) -> int:
            inputs = [f"{number} {index} " + "cat " * 300 for index in range(5)]
            return httpx.post(f"{url}/classify", json={"inputs": inputs}, timeout=60).status_code

        with ThreadPoolExecutor(8) as pool:
            assert Counter(pool.map(ask, range(60))) == {200: 60}
        until(lambda: len(lines(file)) == 300)
        os.kill(children(running.pid)[0], signal.SIGKILL)
    found = lines(file)
    assert len({line["text"] for line in found}) == 300 and stat.S_IMODE(file.stat().st_mode) == 0o600
