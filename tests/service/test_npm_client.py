"""If this breaks, `@huggingface/inference`, which web pages and Node programs use, does not understand the service.

It is installed from the lock file in npm/, once for all runs on a machine.
"""

import json
import os
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

from service.heads import load_heads
from tests.programs import npm_packages, program
from tests.service.serving import Served, serving, until
from tests.service.test_routes import same

LOCKED = Path(__file__).parent / "npm"
NODE = 18
"""The oldest version that the package supports."""
TEXT = "The cat sat on the mat, and the dog slept."
QUESTION = {"question": "Where does Clara live?", "context": "Clara lives in Berlin."}
MASKED = "The [MASK] sat."
LABELS = ["cats", "sea"]

COMMON = """
import { InferenceClient } from "@huggingface/inference";
const [url, given] = process.argv.slice(1), found = {};
let fetches = 0;
const counting = (...all) => { fetches += 1; return fetch(...all); };
const at = (path, token) => new InferenceClient(token, { fetch: counting }).endpoint(url + path);
const error = async (promise) => { try { await promise; } catch (raised) { return raised.message; } };
const { text, question, masked, labels } = JSON.parse(given ?? "{}");
"""
TASKS = """
const inputs = text, key = "s3cret";
found.classify = await at("/classify", key).textClassification({ inputs });
found.best = await at("/classify/topic", key).textClassification({ inputs, parameters: { top_k: 1 } });
const whole = new InferenceClient(key);
found.url = await whole.textClassification({ inputs, endpointUrl: url + "/classify", model: "unused" });
found.tag = await at("/tag", key).tokenClassification({ inputs });
found.mask = await at("/fill-mask", key).fillMask({ inputs: masked, parameters: { top_k: 2 } });
found.qa = await at("/qa", key).questionAnswering({ inputs: question });
const parameters = { candidate_labels: labels };
found.zero = await at("/zero-shot", key).zeroShotClassification({ inputs, parameters });
parameters.multi_label = true;
found.multi = await at("/zero-shot", key).zeroShotClassification({ inputs, parameters });
found.errors = [
  await error(at("/classify", key).textClassification({ inputs, parameters: { nope: 1 } })),
  await error(at("/classify/none", key).textClassification({ inputs })),
  await error(at("/classify").textClassification({ inputs })),
  await error(at("/classify", key).sentenceSimilarity({ inputs: { source_sentence: "a", sentences: ["b"] } })),
  await error(at("/embed", key).featureExtraction({ inputs })),
];
console.log(JSON.stringify(found));
"""
WHILE_LOADING = """
found.labels = await at("/classify").textClassification({ inputs: text });
console.log(JSON.stringify({ ...found, fetches }));
"""
WHILE_DRAINING = """
const signal = AbortSignal.timeout(2500);
found.error = await error(at("/classify").textClassification({ inputs: text }, { signal }));
console.log(JSON.stringify({ ...found, fetches }));
"""


@pytest.fixture(scope="module")
def package() -> Path:
    """Return a directory that has the package."""
    node = subprocess.run([program("node", package="nodejs"), "--version"], capture_output=True, text=True, check=True)
    if int(node.stdout.lstrip("v").partition(".")[0]) < NODE and not os.environ.get("CI"):
        pytest.skip(f"node is {node.stdout.strip()}; install {NODE} or newer")
    return npm_packages(LOCKED)


def start(package: Path, script: str, served: Served) -> "subprocess.Popen[str]":
    given = json.dumps({"text": TEXT, "question": QUESTION, "masked": MASKED, "labels": LABELS})
    command = ["node", "--input-type=module", "--eval", COMMON + script, served.url, given]
    return subprocess.Popen(command, cwd=package, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def result(running: "subprocess.Popen[str]") -> dict[str, Any]:
    """Return what a script prints."""
    output, errors = running.communicate(timeout=180)
    assert running.returncode == 0, errors[-4000:]
    found: dict[str, Any] = json.loads(output.splitlines()[-1])
    return found


def test_every_task(package: Path, bundle: Path) -> None:
    with serving(bundle, lanes=1, api_key="s3cret") as served:
        found = result(start(package, TASKS, served))
        (labels,) = served.answer("/classify", TEXT)
        assert same(found["classify"], labels) and same(found["url"], labels)
        assert same([found["best"]], served.answer("/classify/topic", TEXT, top_k=1))
        assert same(found["tag"], served.answer("/tag", TEXT)) and found["tag"]
        assert same(found["mask"], served.answer("/fill-mask", MASKED, top_k=2))
        assert same(found["qa"], served.answer("/qa", QUESTION))
        for name, parameters in (("zero", {}), ("multi", {"multi_label": True})):
            assert same(found[name], served.answer("/zero-shot", TEXT, candidate_labels=LABELS, **parameters))
    says = (
        "parameters.nope: is not a parameter of classify",
        "there is no head 'none'",
        "Authorization: Bearer KEY",
        "inputs",
        "there is no /embed",
    )
    assert all(each in error for each, error in zip(says, found["errors"], strict=True)), found["errors"]


def test_a_service_that_starts_is_not_flooded(package: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client sends a request that gets 503 again at once, without end."""
    loaded = threading.Event()

    def slowly(*arguments: Any) -> Any:
        assert loaded.wait(60)
        return load_heads(*arguments)

    monkeypatch.setattr("service.lifecycle.load_heads", slowly)
    with serving(bundle, wait=False, lanes=1) as served:
        running = start(package, WHILE_LOADING, served)
        until(lambda: served.service._held == 1)
        loaded.set()
        found = result(running)
        assert same(found["labels"], served.answer("/classify", TEXT)[0]) and found["fetches"] < 5


def test_a_service_that_drains_is_not_flooded(package: Path, bundle: Path) -> None:
    with serving(bundle, lanes=1) as served:
        served.service.engine._stopping = True
        served.service.drain()
        assert 0 < result(start(package, WHILE_DRAINING, served))["fetches"] < 5
