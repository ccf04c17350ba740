"""If this breaks, the public clients of the Open Inference Protocol do not understand the service.

They run in an environment of their own, which is made once for all runs on a machine: they need other versions of
packages than the tests, and one of them replaces parts of Python's library.
"""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.programs import python_with
from tests.service.infer import LABELS, VERSION
from tests.service.serving import Served, serving
from tests.service.test_routes import same

PACKAGES = ["tritonclient[http]==2.73.0", "kserve==0.21.0"]
TEXTS = ["The cat sat on the mat.", "héllo 🎻"]

TRITON = """
import json, sys
import numpy as np
import tritonclient.http as triton

client = triton.InferenceServerClient(sys.argv[1].removeprefix("http://"))
texts = np.array(json.loads(sys.argv[2]), dtype=object)
found = {}


def text(array=texts, binary=True, name="text"):
    tensor = triton.InferInput(name, list(array.shape), "BYTES")
    tensor.set_data_from_numpy(array, binary_data=binary)
    return tensor

def read(result, *names):
    arrays = {name: result.as_numpy(name) for name in names}
    return {name: [each.decode() if isinstance(each, bytes) else each for each in array.ravel().tolist()]
            for name, array in arrays.items()}

def refused(call, *arguments, **named):
    try:
        call(*arguments, **named)
    except triton.InferenceServerException as error:
        return [error.status(), error.message()]

found["live"] = [client.is_server_live(), client.is_server_ready()]
found["ready"] = [client.is_model_ready(*each) for each in (("topic",), ("topic", "1.2.3"), ("topic", "9"), ("none",))]
found["server"] = client.get_server_metadata()
found["metadata"] = [client.get_model_metadata(*each) for each in (("topic",), ("topic", "1.2.3"))]
found["config"] = [client.get_model_config(*each) for each in (("topic",), ("topic", "1.2.3"))]
found["default"] = read(client.infer("topic", [text()], request_id="r1"), "label", "score", "json")
found["id"] = client.infer("topic", [text()], request_id="r1").get_response()["id"]
found["version"] = read(client.infer("topic", [text()], model_version="1.2.3"), "json")
Output = triton.InferRequestedOutput
mixed = client.infer(
    "topic", [text(binary=False)], outputs=[Output("label", binary_data=False), Output("scores", binary_data=True)],
    priority=1, timeout=30_000_000, sequence_id=7, sequence_start=True, parameters={"top_k": 2},
)
found["mixed"] = read(mixed, "label") | {"scores": mixed.as_numpy("scores").tolist()}
column = client.infer("topic", [text(texts.reshape(-1, 1))])
found["column"] = [list(column.as_numpy("label").shape), read(column, "label")]
for algorithm in ("gzip", "deflate"):
    found[algorithm] = read(client.infer("topic", [text()], request_compression_algorithm=algorithm,
                                         response_compression_algorithm=algorithm), "label", "score", "json")
pair = [text(name="text"), text(texts[::-1], binary=False, name="text_pair")]
found["pair"] = read(client.infer("nli", pair), "json")
found["qa"] = read(client.infer("qa", [text(name="question"), text(name="context")]), "answer", "start", "end", "json")
found["async"] = read(client.async_infer("topic", [text()]).get_result(), "json")
found["statistics"] = [client.get_inference_statistics(*each) for each in ((), ("topic",), ("topic", "1.2.3"))]
found["errors"] = [
    refused(client.infer, "none", [text()]),
    refused(client.infer, "topic", [text()], parameters={"topk": 1}),
    refused(client.infer, "topic", [text(np.array([" "], dtype=object))]),
    refused(client.get_model_metadata, "topic", "9"),
    refused(client.infer, "topic", [text()], timeout=1),
]
print(json.dumps(found))
"""

KSERVE = """
import asyncio, json, sys
import numpy as np
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig

url, texts = sys.argv[1], json.loads(sys.argv[2])

def request(**named):
    return InferRequest(model_name="topic", **named)

def given(binary):
    tensor = InferInput("text", [len(texts)], "BYTES")
    tensor.set_data_from_numpy(np.array(texts, dtype=object), binary_data=binary)
    return tensor

async def refused(call, *arguments, **named):
    try:
        await call(*arguments, **named)
    except Exception as error:
        return str(error)

async def main():
    client, found = InferenceRESTClient(RESTConfig(protocol="v2")), {}
    found["live"] = [await client.is_server_live(url), await client.is_server_ready(url)]
    found["ready"] = [await client.is_model_ready(url, name) for name in ("topic", "none")]
    plain = InferInput("text", [len(texts)], "BYTES", data=texts)
    for name, tensor in {"plain": plain, "json": given(False), "binary": given(True)}.items():
        answer = await client.infer(url, request(infer_inputs=[tensor], request_id="r1"), model_name="topic")
        found[name] = {each.name: each.data for each in answer.outputs} | {"id": answer.id, "model": answer.model_name}
    asked = request(infer_inputs=[given(True)], parameters={"binary_data_output": True, "top_k": 2})
    answer = await client.infer(url, asked, model_name="topic")
    found["tails"] = {each.name: each.as_numpy().tolist() for each in answer.outputs}
    wrong = request(infer_inputs=[plain], parameters={"topk": 1})
    found["error"] = await refused(client.infer, url, wrong, model_name="topic")
    old = InferenceRESTClient(RESTConfig(protocol="v1"))
    found["v1_ready"] = await old.is_model_ready(url, "topic")
    found["v1"] = await old.infer(url, {"instances": texts}, model_name="topic")
    found["v1_error"] = await refused(old.infer, url, {"instances": 1}, model_name="topic")
    print(json.dumps(found))

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def python() -> Path:
    """Return the Python that has the clients."""
    return python_with("v2-clients", *PACKAGES)


@pytest.fixture(scope="module")
def served_alone(bundle: Path) -> Iterator[Served]:
    with serving(bundle, lanes=1, max_items=8) as served:
        yield served


def run(python: Path, script: str, served: Served) -> dict[str, Any]:
    """Return what a client's script prints."""
    command = [str(python), "-c", script, served.url, json.dumps(TEXTS)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=180)
    assert result.returncode == 0, result.stderr[-4000:]
    found: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return found


@pytest.mark.slow
def test_tritonclient(python: Path, served_alone: Served) -> None:
    served = served_alone
    expected = served.answer("/classify/topic", TEXTS)
    found = run(python, TRITON, served)
    assert found["live"] == [True, True] and found["ready"] == [True, True, False, False]
    for name, path in {"server": "/v2", "metadata": "/v2/models/topic", "config": "/v2/models/topic/config"}.items():
        told = served.client.get(path).json()
        assert found[name] == (told if name == "server" else [told, told])
    assert found["id"] == "r1"
    for name in ("default", "version", "gzip", "deflate", "async"):
        assert same([json.loads(text)[0] for text in found[name]["json"]], expected), name
    for name in ("default", "gzip", "deflate"):
        assert found[name]["label"] == [labels[0]["label"] for labels in expected]
        assert same(found[name]["score"], [labels[0]["score"] for labels in expected])
    assert found["mixed"]["label"] == found["default"]["label"]
    by_label = [{each["label"]: each["score"] for each in labels} for labels in expected]
    assert same(found["mixed"]["scores"], [[scores[label] for label in LABELS] for scores in by_label])
    assert found["column"] == [[2, 1], {"label": found["default"]["label"]}]
    pairs = [dict(zip(("text", "text_pair"), pair, strict=True)) for pair in (TEXTS, TEXTS[::-1])]
    assert same([json.loads(text)[0] for text in found["pair"]["json"]], served.answer("/pair/nli", pairs))
    answers = served.answer("/qa", [{"question": text, "context": text} for text in TEXTS])
    assert same([json.loads(text) for text in found["qa"].pop("json")], answers)
    assert found["qa"] == {name: [answer[name] for answer in answers] for name in ("answer", "start", "end")}
    assert [len(told["model_stats"]) for told in found["statistics"]] == [7, 1, 1]
    statuses, sentences = zip(*found["errors"], strict=True)
    assert statuses == ("404", "422", "422", "404", "504")
    says = ("there are sentiment, topic", "is not a parameter of classify", "text[0]: ' ' has no", VERSION, "deadline")
    assert all(each in sentence for each, sentence in zip(says, sentences, strict=True)), sentences


@pytest.mark.slow
def test_kserve(python: Path, served_alone: Served) -> None:
    served = served_alone
    expected = served.answer("/classify/topic", TEXTS)
    best = [labels[0] for labels in expected]
    found = run(python, KSERVE, served)
    assert found["live"] == [True, True] and found["ready"] == [True, False] and found["v1_ready"]
    for name in ("plain", "json", "binary"):
        assert (found[name]["id"], found[name]["model"]) == ("r1", "topic")
    for name in ("plain", "json", "binary", "tails"):
        assert found[name]["label"] == [label["label"] for label in best]
        assert same(found[name]["score"], [label["score"] for label in best])
    assert same([json.loads(text)[0] for text in found["tails"]["json"]], [labels[:2] for labels in expected])
    by_label = [{label["label"]: label["score"] for label in labels} for labels in expected]
    assert same(found["v1"], {"predictions": by_label})
    assert "parameters.topk: is not a parameter of classify" in found["error"]
    assert "instances is the number 1" in found["v1_error"]
