"""The control routes of the Open Inference Protocol's model repository extension: load, unload, list.

Any web page can make a browser send a POST without a content type. So these routes are off by default, require the key,
and refuse requests from other origins. A request cannot give a path.
"""

import re
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from models.manifest import MANIFEST, NAME, Name
from models.task import Strict
from service.error_examples import CLOSED, FOREIGN, MAX_CONTROL_BYTES
from service.errors import BadRequest, Conflict, Forbidden, NotFound
from service.heads import Snapshot
from service.inference import deadline_of, json_response, service_of
from service.lifecycle import Service
from service.openapi import READ, BareRoute
from service.reload import Change, Outcome
from service.request_body import read_body
from service.request_models import Model, parse_json

REFUSED = (400, 401, 403, 404, 408, 409, 413, 415, 503)
"""Error statuses of the routes that change bundles."""
LISTED = [{"name": "sentiment", "version": "0.4.0", "state": "READY", "reason": ""}]
LOAD = {"parameters": {"force": False}}
LOADED = {"name": "starter", "load": True, "version": "0.4.0", "previous": "0.4.0"}
UNLOAD = {"parameters": {"unload_dependents": False}}
UNLOADED = {"name": "starter", "unload": True, "version": "0.4.0"}


class BundleRefused(BadRequest, code="bundle-refused"):
    """The bundle cannot be served; the previous one is still served."""


class LoadParameters(Strict):
    version: str | None = Field(None, description="a directory below bundle_root/NAME; by default the same path again")
    force: bool = Field(False, description="let heads disappear or change their task")
    rename: dict[Name, Name] = Field({}, description="new names for its heads, by their names in the bundle")


class Load(Strict):
    parameters: LoadParameters = LoadParameters()


class UnloadParameters(Strict):
    unload_dependents: bool = Field(False, description="accepted without effect, as no bundle depends on another")


class Unload(Strict):
    parameters: UnloadParameters = UnloadParameters()


def repository_routes() -> list[BareRoute]:
    """Return the control routes."""
    base = "/v2/repository"
    return [
        _route(f"{base}/index", _index, "List heads with versions and states", ({}, LISTED)),
        _route(f"{base}/models/{{name}}/load", _load, "Load a bundle again, or another version of it", (LOAD, LOADED)),
        _route(f"{base}/models/{{name}}/unload", _unload, "Unload a bundle", (UNLOAD, UNLOADED)),
    ]


def _route(path: str, work: Callable[[Request], Awaitable[Any]], summary: str, examples: tuple[Any, Any]) -> BareRoute:
    async def handler(request: Request) -> Response:
        if request.headers.get("origin") or request.headers.get("sec-fetch-site") == "cross-site":
            raise Forbidden(FOREIGN)
        return json_response(await work(request))

    asked, answered = ({"content": {"application/json": {"example": each}}} for each in examples)
    return BareRoute(
        path,
        handler,
        refused=READ if work is _index else REFUSED,
        methods=["POST"],
        summary=summary,
        responses={200: answered},
        openapi_extra={"requestBody": asked},
    )


async def _index(request: Request) -> list[dict[str, str]]:
    """List the loaded heads. All are ready, so the body, which could ask for ready heads only, is ignored."""
    return [
        {"name": head.name, "version": loaded.version, "state": "READY", "reason": ""}
        for loaded in service_of(request).heads.bundles
        for head in loaded.heads
    ]


async def _load(request: Request) -> dict[str, object]:
    service, name = service_of(request), request.path_params["name"]
    given = (await _parsed(request, service, Load)).parameters
    outcome = await service.reload.change(_change(service, name, given))
    _check(outcome)
    return {"name": name, "load": True, "version": outcome.version, "previous": outcome.previous or None}


async def _unload(request: Request) -> dict[str, object]:
    service, name = service_of(request), request.path_params["name"]
    await _parsed(request, service, Unload)
    heads = service.heads
    loaded = heads.bundle_of(name)
    if not loaded:
        raise NotFound(_missing(heads, name), field="name")
    if len(heads.bundles) == 1:
        raise Forbidden(f"{loaded.name} is the last bundle that is served; load another, or stop the service")
    outcome = await service.reload.change(Change(loaded.source, None))
    _check(outcome)
    return {"name": name, "unload": True, "version": loaded.version}


def _change(service: Service, name: str, given: LoadParameters) -> Change:
    """Return the change that a load request asks for; raise NotFound if the bundle or version does not exist."""
    heads = service.heads
    loaded = heads.bundle_of(name)
    old = loaded.source if loaded else None
    if given.version is not None:
        bundle = loaded.bundle.manifest.name if loaded else name
        directory = _find(service.settings.bundle_root, bundle, given.version)
        return Change(old, directory, f"{bundle}/{given.version}", given.force, _by_bundle(bundle, given.rename))
    source = old or service.reload.retired.get(name)
    if not source:
        raise NotFound(_missing(heads, name), field="name")
    bundle = loaded.bundle.manifest.name if loaded else name
    return Change(old, source, "", given.force, _by_bundle(bundle, given.rename))


def _by_bundle(bundle: str, names: Mapping[str, str]) -> dict[str, str]:
    return {f"{bundle}:{head}": name for head, name in names.items()}


def _find(root: Path | None, name: str, version: str) -> Path:
    """Return ROOT/NAME/VERSION; raise NotFound for an invalid name, a path outside ROOT, or a missing bundle."""
    if root is None:
        raise NotFound("versions are in bundle_root, which is not set; set BERTHEADS_BUNDLE_ROOT", field="version")
    directory = root / name / version
    is_named = all(re.fullmatch(NAME, part) for part in (name, version))  # before any look at the disk
    if is_named and directory.resolve().is_relative_to(root.resolve()) and (directory / MANIFEST).is_file():
        return directory
    found = (root / name).glob(f"*/{MANIFEST}") if re.fullmatch(NAME, name) else ()
    known = ", ".join(sorted(each.parent.name for each in found)) or "none"
    sentence = f"there is no version {version[:80]!r} of {name[:80]!r} below bundle_root; there are {known}"
    raise NotFound(sentence, field="version")


async def _parsed(request: Request, service: Service, model: type[Model]) -> Model:
    """Read a body of any content type; an empty one means the defaults. Raises Forbidden if model control is off."""
    if service.settings.model_control != "explicit":
        raise Forbidden(CLOSED)
    with service.bodies.one() as count:
        body = await read_body(request, deadline_of(request, service.settings), MAX_CONTROL_BYTES, count, media=None)
    return parse_json(body or b"{}", model)


def _check(outcome: Outcome) -> None:
    if outcome.result == "busy":
        raise Conflict(outcome.sentence)
    if outcome.result == "refused":
        raise BundleRefused(outcome.sentence)


def _missing(heads: Snapshot, name: str) -> str:
    known = ", ".join(dict.fromkeys([*(loaded.bundle.manifest.name for loaded in heads.bundles), *heads.by_name]))
    return f"there is no bundle or head {name[:80]!r}; there are {known}"
