"""A service whose bundles change, versions that it may load, and requests to its control routes."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from models.task import HeadSpec
from models.tokenizer import Tokenizer
from tests.service.bundles import write_bundle
from tests.service.serving import Served, serving

KEY = "secret"
HEADS = {"sentiment": HeadSpec("classify", ["negative", "positive"]), "ner": HeadSpec("tag", ["O", "B-PER", "I-PER"])}
OTHERS = {"intent": HeadSpec("classify", ["a", "b", "c"])}
TEXT = "the cat sat on the mat"


def write_versions(root: Path, tokenizer: Tokenizer) -> Path:
    """Versions of a bundle, as ROOT/NAME/VERSION: good ones, and some that a service must refuse."""
    for version in ("1.0.0", "1.1.0", "2.0.0"):
        write_bundle(root / "tiny" / version, tokenizer, HEADS, version=version)
    write_bundle(root / "tiny" / "poorer", tokenizer, {"sentiment": HEADS["sentiment"]}, version="poorer")
    other_task = HEADS | {"ner": HeadSpec("classify", ["x", "y"])}
    write_bundle(root / "tiny" / "other-task", tokenizer, other_task, version="other-task")
    write_bundle(root / "tiny" / "clash", tokenizer, HEADS | OTHERS, version="clash")
    write_bundle(root / "tiny" / "named-otherwise", tokenizer, HEADS, version="9.0.0")
    flipped = Path(shutil.copytree(root / "tiny" / "1.1.0", root / "tiny" / "flipped"))
    contents = bytearray((flipped / "encoder.fp32.onnx").read_bytes())
    contents[len(contents) // 2] ^= 1
    (flipped / "encoder.fp32.onnx").write_bytes(contents)
    half = Path(shutil.copytree(root / "tiny" / "1.1.0", root / "tiny" / "half"))
    (half / "heads/ner.onnx").unlink()
    write_bundle(root / "other" / "1.0.0", tokenizer, OTHERS, "other", version="1.0.0")
    return root


@contextmanager
def controlled(root: Path, *bundles: Path, **settings: Any) -> Iterator[Served]:
    chosen: dict[str, Any] = {"lanes": 2, "model_control": "explicit", "api_key": KEY, "bundle_root": root} | settings
    with serving(*bundles, **chosen) as served:
        yield served


def load(client: httpx.Client, name: str, version: str | None = None, **parameters: object) -> httpx.Response:
    """As tritonclient sends it: without a type."""
    given = ({"version": version} if version else {}) | parameters
    return client.post(f"/v2/repository/models/{name}/load", content=json.dumps({"parameters": given} if given else {}))


def unload(client: httpx.Client, name: str) -> httpx.Response:
    return client.post(f"/v2/repository/models/{name}/unload", content=b'{"parameters":{"unload_dependents":false}}')


def refused(response: httpx.Response, status: int, *parts: str) -> None:
    assert response.status_code == status, response.text
    assert response.headers["Content-Type"] == "application/json", "or a client of KServe does not read it"
    body = response.json()
    assert body["error"] == body["detail"] and body["status"] == status and "request_id" in body
    for part in parts:
        assert part in body["error"]


def expected(root: Path, version: str) -> bytes:
    with serving(root / "tiny" / version, lanes=1) as served:
        return served.post("/classify", TEXT).content
