"""Pages for people: the playground, and Swagger UI over the OpenAPI document. Neither loads anything from elsewhere.

Each is read, hashed and compressed once. FastAPI runs these routes, which are no coroutines, on threads.
"""

import base64
import gzip
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

from fastapi import APIRouter, Request, Response
from fastapi.openapi.docs import get_swagger_ui_html

from service.errors import NotFound

PLAYGROUND = Path(__file__).with_name("page.html")
PARTS = PLAYGROUND.with_suffix("")
STYLE = "style.css"
SCRIPTS = (
    "tasks.js",
    "elements.js",
    "storage.js",
    "form.js",
    "link.js",
    "requests.js",
    "answer.js",
    "why.js",
    "code.js",
    "card.js",
    "table.js",
    "many.js",
    "corrections.js",
    "compare.js",
    "start.js",
)
"""The files of one script, in the order in which they stand in it."""
# Swagger UI from a package: FastAPI's own page would load it from a content delivery network.
ASSETS = {"swagger-ui-bundle.js": "text/javascript", "swagger-ui.css": "text/css"}
SEALED = "default-src 'none'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
REVALIDATED = "no-cache"
LASTING = "public, max-age=31536000, immutable"
"""For assets: the pages name them with their hash, so that another version has another address."""

router = APIRouter(include_in_schema=False)


@dataclass(frozen=True)
class Static:
    """A file as it is sent, plain and compressed."""

    plain: bytes
    compressed: bytes
    digest: str
    headers: Mapping[str, str]

    def answer(self, request: Request) -> Response:
        """Return what the client accepts, or 304 if it has that already."""
        zipped = _accepts_gzip(request.headers.get("accept-encoding", ""))
        tag = f'"{self.digest}-gzip"' if zipped else f'"{self.digest}"'
        headers = {**self.headers, "ETag": tag, "Vary": "Accept-Encoding", "X-Content-Type-Options": "nosniff"}
        if _has(request.headers.get("if-none-match", ""), tag):
            return Response(status_code=304, headers=headers)
        encoding = {"Content-Encoding": "gzip"} if zipped else {}
        return Response(self.compressed if zipped else self.plain, headers=headers | encoding)


@router.get("/")
def playground(request: Request) -> Response:
    """Return the one file, whose script and style may run because their hashes are named."""
    return _playground().answer(request)


@router.get("/docs")
def docs(request: Request) -> Response:
    """Return Swagger UI."""
    return _docs().answer(request)


@router.get("/docs/{name}")
def docs_asset(request: Request, name: str) -> Response:
    """Return a file of Swagger UI."""
    if name not in ASSETS:
        raise NotFound(f"there is no {name[:80]!r}; there are {', '.join(ASSETS)}")
    return _asset(name).answer(request)


@cache
def _playground() -> Static:
    html = _filled(PLAYGROUND.read_text("utf8"))
    return _page(html, f"script-src {_hash(html, 'script')}; style-src {_hash(html, 'style')}; img-src data:")


def _filled(html: str) -> str:
    """Return the page with its style and its script in it, so that a browser loads one file."""
    style, *scripts = (PARTS.joinpath(name).read_text("utf8") for name in (STYLE, *SCRIPTS))
    html = html.replace("<style></style>", f"<style>\n{style}</style>", 1)
    return html.replace("<script></script>", f"<script>\n{''.join(scripts)}</script>", 1)


@cache
def _docs() -> Static:
    page = get_swagger_ui_html(
        openapi_url="openapi.json",
        title="bertheads",
        swagger_js_url=_address("swagger-ui-bundle.js"),
        swagger_css_url=_address("swagger-ui.css"),
        swagger_favicon_url="data:,",
    )
    html = bytes(page.body).decode()
    policy = f"script-src 'self' {_hash(html, 'script')}; style-src 'self' 'unsafe-inline'; img-src 'self' data:"
    return _page(html, policy)


@cache
def _asset(name: str) -> Static:
    content = files("fastapi_swagger.resources").joinpath(name).read_bytes()
    return _static(content, {"Content-Type": f"{ASSETS[name]}; charset=utf-8", "Cache-Control": LASTING})


def _address(asset: str) -> str:
    return f"docs/{asset}?{_asset(asset).digest}"


def _page(html: str, policy: str) -> Static:
    headers = {
        "Content-Type": "text/html; charset=utf-8",
        "Content-Security-Policy": f"{SEALED}; {policy}",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": REVALIDATED,
    }
    return _static(html.encode(), headers)


def _static(content: bytes, headers: Mapping[str, str]) -> Static:
    return Static(content, gzip.compress(content, mtime=0), hashlib.sha256(content).hexdigest()[:32], headers)


def _accepts_gzip(header: str) -> bool:
    """Whether an Accept-Encoding header names gzip, or all, with a weight above 0 (RFC 9110, 12.5.3)."""
    weights = {}
    for part in header.lower().split(","):
        name, _, rest = part.partition(";")
        weight = re.fullmatch(r"\s*q\s*=\s*([01](\.\d*)?)\s*", rest) if rest else None
        weights[name.strip()] = float(weight[1]) if weight else 1.0
    return weights.get("gzip", weights.get("*", 0.0)) > 0


def _has(header: str, tag: str) -> bool:
    """Whether an If-None-Match header names a tag (RFC 9110, 13.1.2: weak tags match too)."""
    return header.strip() == "*" or tag in (each.strip().removeprefix("W/") for each in header.split(","))


def _hash(html: str, element: str) -> str:
    """Return the hash of the page's own <script> or <style>, as a policy names it."""
    content = re.search(f"<{element}>(.*?)</{element}>", html, re.DOTALL)
    assert content, f"the page has no <{element}>"
    return f"'sha256-{base64.b64encode(hashlib.sha256(content[1].encode()).digest()).decode()}'"
