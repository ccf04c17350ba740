"""The control routes of the Open Inference Protocol's model repository extension: load, unload, list.

A web page can send a POST without a type to any address, so these routes are off unless asked for, need the key, and
refuse what comes from another origin. A path never comes from a request.
"""

import asyncio
import pathlib
import re
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request
from fastapi.responses import JSONResponse
from pydantic import Field, ValidationError

from models.manifest import MANIFEST, NAME
from models.task import Strict
from service.errors import BadRequest, Forbidden, NotFound, ServiceError, SlowRequest, TooLarge
from service.heads import Snapshot
from service.lifecycle import Service
from service.openapi import problems
from service.reload import Change, Outcome

router = APIRouter(prefix="/v2/repository", tags=["repository"])

MAX_BODY_BYTES = 65_536
REFUSED = (400, 401, 403, 404, 408, 409, 413, 503)
"""Statuses of a change that is refused."""
Name = Annotated[str, Path(description="The name of a bundle, or of one of its heads")]


class Conflict(ServiceError):
    """Another bundle is being loaded."""

    status, title, code = 409, "Under way", "conflict"
    example = ("", "starter/1.5.0 is being loaded; try again once it is")


class BundleRefused(BadRequest):
    """The bundle cannot be served; the one before still is."""

    title, code = "Bundle refused", "bundle-refused"


class LoadParameters(Strict):
    version: str | None = Field(None, description="a directory below bundle_root/NAME; by default the same path again")
    force: bool = Field(False, description="let heads vanish or change their task")


class Load(Strict):
    parameters: LoadParameters = LoadParameters()


class UnloadParameters(Strict):
    unload_dependents: bool = Field(False, description="nothing depends on a bundle, so it changes nothing")


class Unload(Strict):
    parameters: UnloadParameters = UnloadParameters()


@router.post("/index", summary="List heads with versions and states", responses=problems(401, 403, 503, path="/v2"))
async def index(request: Request) -> JSONResponse:
    return await _answered(request, _index)


@router.post(
    "/models/{name}/load",
    summary="Load a bundle again, or another version of it",
    responses=problems(*REFUSED, path="/v2"),
)
async def load(request: Request, name: Name) -> JSONResponse:
    return await _answered(request, lambda service: _load(request, service, name))


@router.post("/models/{name}/unload", summary="Unload a bundle", responses=problems(*REFUSED, path="/v2"))
async def unload(request: Request, name: Name) -> JSONResponse:
    return await _answered(request, lambda service: _unload(request, service, name))


async def _answered(request: Request, work: Callable[[Service], Awaitable[Any]]) -> JSONResponse:
    if request.headers.get("origin") or request.headers.get("sec-fetch-site") == "cross-site":
        raise Forbidden("a page of another origin asks; send the request from a program, without Origin")
    return JSONResponse(await work(request.app.state.service))


async def _index(service: Service) -> list[dict[str, str]]:
    """List what is loaded, which is all ready: the body, which may ask for that only, changes nothing."""
    return [
        {"name": head.name, "version": loaded.version, "state": "READY", "reason": ""}
        for loaded in service.heads.bundles
        for head in loaded.heads
    ]


async def _load(request: Request, service: Service, name: str) -> dict[str, object]:
    _check_control(service)
    given = (await _parsed(request, service, Load)).parameters
    outcome = await service.reload.change(_change(service, name, given))
    _check(outcome)
    return {"name": name, "load": True, "version": outcome.version, "previous": outcome.previous or None}


async def _unload(request: Request, service: Service, name: str) -> dict[str, object]:
    _check_control(service)
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
    """Return what a request to load asks for; raise NotFound for what is not there."""
    heads = service.heads
    loaded = heads.bundle_of(name)
    old = loaded.source if loaded else None
    if given.version is not None:
        bundle = loaded.bundle.manifest.name if loaded else name
        directory = _find(service.settings.bundle_root, bundle, given.version)
        return Change(old, directory, f"{bundle}/{given.version}", given.force)
    source = old or service.reload.retired.get(name)
    if not source:
        raise NotFound(_missing(heads, name), field="name")
    return Change(old, source, "", given.force)


def _find(root: pathlib.Path | None, name: str, version: str) -> pathlib.Path:
    """Return ROOT/NAME/VERSION; raise NotFound for what is no name, lies elsewhere, or is no bundle."""
    if root is None:
        raise NotFound("versions lie below bundle_root, which is not set; set BERTHEADS_BUNDLE_ROOT", field="version")
    if not re.fullmatch(NAME, name) or not re.fullmatch(NAME, version):
        raise NotFound(f"there is no bundle {name[:80]!r} of version {version[:80]!r}", field="version")
    directory = root / name / version
    if not directory.resolve().is_relative_to(root.resolve()) or not (directory / MANIFEST).is_file():
        known = ", ".join(sorted(found.parent.name for found in (root / name).glob(f"*/{MANIFEST}")))
        raise NotFound(
            f"there is no version {version!r} of {name!r} below bundle_root; there are {known or 'none'}",
            field="version",
        )
    return directory


async def _parsed(request: Request, service: Service, model: type[Any]) -> Any:
    """Read a body of any declared type; an empty one holds nothing but defaults."""
    body = bytearray()
    try:
        async with asyncio.timeout(service.settings.deadline):
            async for chunk in request.stream():
                body += chunk
                if len(body) > MAX_BODY_BYTES:
                    raise TooLarge(f"the body has more than {MAX_BODY_BYTES} bytes; send only parameters")
    except TimeoutError:
        raise SlowRequest(f"the body did not arrive within {service.settings.deadline:g} s", field="body") from None
    try:
        return model.model_validate_json(bytes(body) or b"{}")
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"])[:80] or "body"
        known = "version and force" if model is Load else ", ".join(UnloadParameters.model_fields)
        raise BadRequest(f"{field}: {first['msg']}; parameters may hold {known}", field=field) from None


def _check_control(service: Service) -> None:
    if service.settings.model_control != "explicit":
        raise Forbidden("bundles cannot be changed here; start the service with --model-control explicit and a key")


def _check(outcome: Outcome) -> None:
    if outcome.result == "busy":
        raise Conflict(outcome.sentence)
    if outcome.result == "refused":
        raise BundleRefused(outcome.sentence)


def _missing(heads: Snapshot, name: str) -> str:
    known = ", ".join(dict.fromkeys([*(loaded.bundle.manifest.name for loaded in heads.bundles), *heads.by_name]))
    return f"there is no bundle or head {name[:80]!r}; there are {known}"
