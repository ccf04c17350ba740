"""Web pages: the playground, and the API documentation. Neither loads anything from other servers.

Each page is sent as one file; its Content-Security-Policy allows its own style and script by their hashes. It is read,
hashed and compressed once. FastAPI runs these routes on threads, because they are not coroutines.
"""

import base64
import gzip
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from fastapi import APIRouter, Request, Response

PLAYGROUND = Path(__file__).with_name("page.html")
DOCS = PLAYGROUND.with_name("docs.html")
PARTS = PLAYGROUND.with_suffix("")
STYLE = "style.css"
SCRIPTS = (
    "tasks.js",
    "elements.js",
    "storage.js",
    "theme.js",
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
DOCS_SCRIPTS = ("tasks.js", "elements.js", "storage.js", "theme.js", "code.js", "docs.js")
"""The files of a page's script, in the order in which they are joined."""
SEALED = "default-src 'none'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
REVALIDATED = "no-cache"

router = APIRouter(include_in_schema=False)


@dataclass(frozen=True)
class Static:
    """A file to send, plain and compressed."""

    plain: bytes
    compressed: bytes
    digest: str
    headers: Mapping[str, str]

    def answer(self, request: Request) -> Response:
        """Return the form that the client accepts, or 304 if the client has it already."""
        zipped = _accepts_gzip(request.headers.get("accept-encoding", ""))
        tag = f'"{self.digest}-gzip"' if zipped else f'"{self.digest}"'
        headers = {**self.headers, "ETag": tag, "Vary": "Accept-Encoding", "X-Content-Type-Options": "nosniff"}
        if _has(request.headers.get("if-none-match", ""), tag):
            return Response(status_code=304, headers=headers)
        encoding = {"Content-Encoding": "gzip"} if zipped else {}
        return Response(self.compressed if zipped else self.plain, headers=headers | encoding)


@router.get("/")
def playground(request: Request) -> Response:
    """Return the playground."""
    return _filled(PLAYGROUND, SCRIPTS).answer(request)


@router.get("/docs")
def docs(request: Request) -> Response:
    """Return the API documentation, which its script renders from /openapi.json."""
    return _filled(DOCS, DOCS_SCRIPTS).answer(request)


@cache
def _filled(html: Path, scripts: tuple[str, ...]) -> Static:
    """Return a page with its style and script inserted, so that a browser loads only one file."""
    style, *parts = (PARTS.joinpath(name).read_text("utf8") for name in (STYLE, *scripts))
    page = html.read_text("utf8").replace("<style></style>", f"<style>\n{style}</style>", 1)
    page = page.replace("<script></script>", f"<script>\n{''.join(parts)}</script>", 1)
    return _page(page, f"script-src {_hash(page, 'script')}; style-src {_hash(page, 'style')}; img-src data:")


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
    """Whether an Accept-Encoding header allows gzip, by name or by *, with a weight above 0 (RFC 9110, 12.5.3)."""
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
    """Return the hash of the page's <script> or <style>, in the form for a Content-Security-Policy."""
    content = re.search(f"<{element}>(.*?)</{element}>", html, re.DOTALL)
    assert content, f"the page has no <{element}>"
    return f"'sha256-{base64.b64encode(hashlib.sha256(content[1].encode()).digest()).decode()}'"
