"""How a new bundle is served: the commands to type, and loading it into a running service."""

import os
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from models.bundle import Bundle
from models.task import TaskName
from training.errors import EvaluationError
from training.head.base import Base

WAIT = 300.0
"""Maximum seconds for a service to load a bundle."""
EXAMPLES: dict[TaskName, str] = {
    "classify": '"some text"',
    "pair": '{"text": "one text", "text_pair": "another"}',
    "tag": '"some text"',
    "qa": '{"question": "a question?", "context": "a text that answers it"}',
}


def commands(bundle: Bundle, base: Base) -> Iterator[str]:
    """Yield the commands that serve a bundle of one head, also beside its base if that is a bundle, and that ask it."""
    ((name, head),) = bundle.manifest.heads.items()
    serve, mine = "bertheads-serve --bundle", shlex.quote(str(bundle.directory))
    if base.is_bundle and name not in base.heads:
        yield f"serve: {serve} {shlex.quote(str(base.directory))} --bundle {mine}"
        yield f"alone: {serve} {mine}"
    else:
        yield f"serve: {serve} {mine}"
    body = f'{{"inputs": {EXAMPLES[head.task]}}}'
    yield f"ask:   curl http://127.0.0.1:8000/{head.task}/{name} -H 'Content-Type: application/json' -d '{body}'"


def name_and_version(out: Path) -> tuple[str, str]:
    """Return name and version for a service with --bundle-root ROOT: OUT is ROOT/NAME/VERSION."""
    path = out.resolve()
    return path.parent.name, path.name


def load(url: str, bundle: Bundle) -> str:
    """Load a bundle into the service at `url`, and return a sentence; raise EvaluationError if it refuses."""
    name, version = bundle.manifest.name, bundle.manifest.version
    key = os.environ.get("BERTHEADS_API_KEY")
    address = f"{url.rstrip('/')}/v2/repository/models/{name}/load"
    try:
        response = httpx.post(
            address,
            json={"parameters": {"version": version}},
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=WAIT,
        )
        answer: Any = response.json()
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        raise EvaluationError(
            f"{url} does not answer as a service ({type(error).__name__}: {error}); the bundle is "
            f"complete: load it with POST {address}"
        ) from None
    if not response.is_success:
        said = answer.get("error", answer) if isinstance(answer, dict) else answer
        raise EvaluationError(
            f"{url} did not load {name}/{version} (status {response.status_code}: {said}); the bundle is complete at "
            f"{bundle.directory}, expected below the --bundle-root of a service with --model-control explicit"
        )
    return f"loaded: {url} serves {name}/{version}"
