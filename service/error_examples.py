"""Examples of errors for the OpenAPI document: the error of a route, and a request that causes it.

A test sends each of these requests. An error that no single request can cause, such as 429, has no request.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from models.occlusion import EXPLAINED
from models.task_registry import ROUTES
from service.errors import (
    EXAMPLES,
    FieldError,
    Forbidden,
    NotFound,
    ServiceError,
    TooLarge,
    Unavailable,
    Unprocessable,
    UnsupportedMedia,
)
from service.heads import Head, Snapshot
from service.settings import Settings

MAX_CONTROL_BYTES = 65_536
"""Maximum bytes of a body that asks to load or unload a bundle."""
BROKEN = '{"inputs": "A '
"""A body that is not JSON."""
MISSING = "missing/1.0.0"
"""A bundle that is not loaded."""
OTHER = "other.example"
NO_KEY = {"headers": {"Authorization": ""}}
TYPE = {"headers": {"Content-Type": "text/plain"}}
REPOSITORY = "/v2/repository"
CONTROL = REPOSITORY + "/models"
"""Path prefix of the routes that load and unload bundles."""
CLOSED = "bundles cannot be changed here; start the service with --model-control explicit and a key"
FOREIGN = "the request comes from a page of another origin; send it from a program, without the header Origin"
HEALTH = {
    "/health/live": "lane-0 died; see the log",
    "/health/ready": "loading: warming bundle 1 of 1, models/starter",
    "/v2/health/live": "lane-0 died; see the log",
    "/v2/health/ready": "loading: warming bundle 1 of 1, models/starter",
}
"""Example of an error for each probe."""
TEXT = "A gorgeous, witty film."
TENSOR = {"name": "text", "shape": [1], "datatype": "BYTES", "data": [TEXT]}
TOP_K = FieldError("parameters.top_k", "is 0, but input should be greater than or equal to 1")
STRATEGY = "is 'best', but input should be 'none', 'simple', 'first', 'average' or 'max'"
WRONG: dict[str, tuple[dict[str, Any], FieldError]] = {
    "classify": ({"inputs": TEXT, "parameters": {"top_k": 0}}, TOP_K),
    "pair": (
        {"inputs": TEXT},
        FieldError("inputs", 'is a text, but must be an object {"text": …, "text_pair": …} or a list of such'),
    ),
    "fill-mask": (
        {"inputs": "Paris is the capital of France."},
        FieldError("inputs", "holds no [MASK]; write [MASK] where a word is to be filled in"),
    ),
    "tag": (
        {"inputs": TEXT, "parameters": {"aggregation_strategy": "best"}},
        FieldError("parameters.aggregation_strategy", STRATEGY),
    ),
    "qa": (
        {"inputs": {"question": "Where does Clara live?"}},
        FieldError("inputs.context", "is missing; send a text"),
    ),
    "zero-shot": (
        {"inputs": "The match ended in a draw.", "parameters": {}},
        FieldError("parameters.candidate_labels", "is missing, but zero-shot needs it; pass it"),
    ),
    "rerank": (
        {"query": "Where is Berlin?"},
        FieldError("texts", "is missing; send a list of texts"),
    ),
    "explain": (
        {"inputs": [TEXT, TEXT]},
        FieldError("inputs", "is a list of 2, but one input is explained at a time; send one"),
    ),
    "heads": ({"inputs": TEXT}, FieldError("heads", "is missing; send it")),
    "v2": ({"inputs": [TENSOR], "parameters": {"top_k": 0}}, TOP_K),
    "v1": ({"instances": []}, FieldError("instances", "has 0 items; send at least 1")),
}
"""By first path segment: a body that is refused, and its error."""
GUARDS = {
    "api": ("contents", "detector_params"),
    "beta": ("texts", "additional_provider_specific_params"),
}
"""By first path segment: the names of the body's fields for texts and parameters."""


@dataclass(frozen=True)
class ErrorExample:
    """An error, and the request that causes it."""

    error: ServiceError
    sent: Mapping[str, Any] | None = None
    """How the request differs from the route's example: in `path`, `headers`, or `body` (a string). None if no single
    request causes the error."""


ENCODED = ErrorExample(
    UnsupportedMedia("the body is encoded as br; send gzip, deflate or no Content-Encoding", field="Content-Encoding"),
    {"headers": {"Content-Encoding": "br"}},
)
"""Example of 415 for the control routes, which read a body of any type."""


def error_example(status: int, path: str, method: str, heads: Snapshot, settings: Settings) -> ErrorExample:
    """Return the example of an error status on a route, with names from `heads` and limits from `settings`."""
    usual = next(error for error in EXAMPLES if error.status == status)
    special: dict[int, Callable[[], ErrorExample]] = {
        400: lambda: ErrorExample(usual, {"body": BROKEN}),
        401: lambda: ErrorExample(usual, NO_KEY if _needs_key(path, settings) else None),
        403: lambda: _forbidden(usual, path, method, settings),
        404: lambda: _not_found(usual, path, heads),
        413: lambda: _too_large(path, settings),
        415: lambda: ENCODED if CONTROL in path else ErrorExample(usual, TYPE),
        422: lambda: _unprocessable(path, heads),
        503: lambda: ErrorExample(Unavailable(HEALTH.get(path, usual.detail))),
        504: lambda: ErrorExample(usual, {"headers": {"X-Deadline-Ms": "1"}}),
    }
    found = special.get(status, lambda: ErrorExample(usual))()
    if CONTROL not in path or settings.model_control == "explicit":
        return found
    return ErrorExample(Forbidden(CLOSED), {}) if status == 403 else replace(found, sent=None)


def _needs_key(path: str, settings: Settings) -> bool:
    return settings.asks_for_key and (path != "/metrics" or settings.protect_metrics)


def choices(path: str, heads: Snapshot) -> dict[str, list[str]]:
    """Return the allowed values of each path parameter."""
    names = [head.name for head in heads.by_name.values() if _answers(head, path.split("/")[1])]
    manifests = [loaded.bundle.manifest for loaded in heads.bundles]
    versions = list(dict.fromkeys(manifest.version for manifest in manifests))
    bundles = list(dict.fromkeys(manifest.name for manifest in manifests))
    return {"head": names, "model": names, "version": versions, "name": [*bundles, *heads.by_name]}


def _answers(head: Head, route: str) -> bool:
    """Whether a head answers under a first path segment; True if that is not the name of a task."""
    return head.spec.task in EXPLAINED if route == "explain" else route not in ROUTES or route in head.ways


def _forbidden(usual: ServiceError, path: str, method: str, settings: Settings) -> ErrorExample:
    origin = {"headers": {"Origin": f"https://{OTHER}"}}
    if settings.asks_for_key:  # then only the control routes check the origin of a request
        return ErrorExample(Forbidden(FOREIGN), origin) if REPOSITORY in path else ErrorExample(usual)
    if method == "post":
        return ErrorExample(usual, origin)
    sentence = (
        f"Host is {OTHER!r}, which is not a name of this service; "
        "to accept it, add it to the setting allowed_hosts (BERTHEADS_ALLOWED_HOSTS), or set a key"
    )
    return ErrorExample(Forbidden(sentence, field="Host"), {"headers": {"Host": OTHER}})


def _not_found(usual: ServiceError, path: str, heads: Snapshot) -> ErrorExample:
    """Return the example of a name that does not exist."""
    part, route = re.search(r"{(head|model|name)}", path), path.split("/")[1]
    if not part:
        return ErrorExample(_raised(lambda: heads.pinned(MISSING), usual), {"headers": {"X-Bundle": MISSING}})
    known = choices(path, heads)[part[1]]
    name = next(iter(known), "sentiment") + "s"
    sent = {"path": path.replace(part[0], name)}
    if CONTROL in path:
        error = NotFound(f"there is no bundle or head {name!r}; there are {', '.join(known)}", field="name")
        return ErrorExample(error, sent | {"body": "{}"})
    if route in ROUTES:
        return ErrorExample(_raised(lambda: heads.find(route, name), usual), sent)
    return ErrorExample(_raised(lambda: heads.get(name), usual), sent)


def _raised(work: Callable[[], object], otherwise: ServiceError) -> ServiceError:
    try:
        work()
    except ServiceError as error:
        return error
    return otherwise


def _too_large(path: str, settings: Settings) -> ErrorExample:
    limit = MAX_CONTROL_BYTES if CONTROL in path else settings.max_body_bytes
    sentence = f"the body of {limit + 1} bytes exceeds the limit of {limit} bytes; send fewer or shorter inputs"
    return ErrorExample(TooLarge(sentence, field="body"))


def _unprocessable(path: str, heads: Snapshot) -> ErrorExample:
    route = path.split("/")[1]
    body, error = WRONG[route] if route in WRONG else _strange_label(route, heads)
    return ErrorExample(Unprocessable([error]), {"body": json.dumps(body, ensure_ascii=False)})


def _strange_label(route: str, heads: Snapshot) -> tuple[dict[str, Any], FieldError]:
    """Return a body with a label that the default guard does not have, and its error."""
    texts, parameters = GUARDS[route]
    guard = heads.defaults.get("classify") or heads.defaults.get("tag")
    name, labels = (guard.name, guard.spec.labels) if guard else ("injection", ["SAFE", "INJECTION"])
    message = f"has 'harm', but head {name!r} has {', '.join(labels)[:500]}"
    body = {texts: [TEXT], parameters: {"blocked_labels": ["harm"]}}
    return body, FieldError(f"{parameters}.blocked_labels", message)
