"""Requests and responses of the Open Inference Protocol, as its clients write and read them."""

import json
import struct
from typing import Any

import httpx
import numpy as np

from service.tensors import HEADER_LENGTH
from tests.service.serving import Served

VERSION = "1.2.3"
"""Of the tiny bundle."""
INFER = "/v2/models/topic/infer"
LABELS = ["art", "law", "sea", "war"]
"""Of its head `topic`."""
KSERVE_ID = "4be58d27-5a5c-4e1c-8b7c-b1f1a9b1c1e1"
NUMPY = {"FP32": "<f4", "INT64": "<i8"}


def tensor(*texts: Any, name: str = "text", **rest: Any) -> dict[str, Any]:
    return {"name": name, "shape": [len(texts)], "datatype": "BYTES", "data": list(texts), **rest}


def tensors(task: str, *inputs: Any) -> list[dict[str, Any]]:
    """Return inputs of a task's own route as tensors."""
    if isinstance(inputs[0], str):
        return [tensor(*inputs)]
    return [tensor(*(each[name] for each in inputs), name=name) for name in inputs[0]]


def infer(served: Served, model: str, *inputs: dict[str, Any], **rest: Any) -> dict[str, Any]:
    """Return the outputs of an inference in JSON by their names."""
    response = served.client.post(f"/v2/models/{model}/infer", json={"inputs": list(inputs), **rest})
    assert response.status_code == 200, response.text
    assert response.headers["Content-Type"] == "application/json"
    return {output["name"]: output["data"] for output in response.json()["outputs"]}


def packed(*texts: str | bytes) -> bytes:
    raw = [text.encode() if isinstance(text, str) else text for text in texts]
    return b"".join(struct.pack("<I", len(text)) + text for text in raw)


def unpacked(raw: bytes) -> list[str]:
    texts = []
    while raw:
        end = 4 + struct.unpack_from("<I", raw)[0]
        texts.append(raw[4:end].decode())
        raw = raw[end:]
    return texts


def announced(document: Any, *tails: bytes, length: object = None) -> tuple[bytes, dict[str, str]]:
    """Return a body in the binary form and its headers, of which tritonclient sends no Content-Type."""
    head = document if isinstance(document, bytes) else json.dumps(document).encode()
    return head + b"".join(tails), {HEADER_LENGTH: str(len(head) if length is None else length)}


def send(served: Served, content: bytes, headers: dict[str, str], path: str = INFER) -> httpx.Response:
    request = served.client.build_request("POST", path, content=content, headers=headers)
    assert "Content-Type" in headers or "Content-Type" not in request.headers
    return served.client.send(request)


def outputs(response: httpx.Response) -> dict[str, Any]:
    """Return the outputs of a response by their names, whichever of them are binary."""
    assert response.status_code == 200, response.text
    length = int(response.headers.get(HEADER_LENGTH, len(response.content)))
    tail = response.content[length:]
    found: dict[str, Any] = {}
    for output in json.loads(response.content[:length])["outputs"]:
        if "data" in output:
            found[output["name"]] = output["data"]
            continue
        size = output["parameters"]["binary_data_size"]
        raw, tail = tail[:size], tail[size:]
        kind = output["datatype"]
        found[output["name"]] = unpacked(raw) if kind == "BYTES" else np.frombuffer(raw, NUMPY[kind]).tolist()
    assert not tail
    return found


def refused(response: httpx.Response, status: int) -> str:
    """Check that both public clients can read a refusal, and return its sentence."""
    assert response.status_code == status, response.text
    assert response.headers["Content-Type"] == "application/json"
    body = response.json()
    assert body.keys() == {"error", "type", "title", "status", "detail", "request_id", "errors"}
    assert body["error"] == body["detail"] and body["status"] == status
    assert body["request_id"] == response.headers["X-Request-Id"]
    sentence: str = body["error"]
    return sentence
