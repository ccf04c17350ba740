"""Pages for people: the playground, and Swagger UI over the OpenAPI document. Neither loads anything from elsewhere."""

import base64
import hashlib
import re
from importlib.resources import files
from pathlib import Path

from fastapi import APIRouter, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse

from service.errors import NotFound

PLAYGROUND = Path(__file__).with_name("page.html")
# Swagger UI from a package: FastAPI's own page would load it from a content delivery network.
ASSETS = {"swagger-ui-bundle.js": "text/javascript", "swagger-ui.css": "text/css"}
SEALED = "default-src 'none'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

router = APIRouter(include_in_schema=False)


@router.get("/")
async def playground() -> Response:
    """Return the one file, whose script and style may run because their hashes are named."""
    html = PLAYGROUND.read_text("utf8")
    policy = f"script-src {_hash(html, 'script')}; style-src {_hash(html, 'style')}; img-src data:"
    return _page(html, policy)


@router.get("/docs")
async def docs() -> Response:
    """Return Swagger UI."""
    page = get_swagger_ui_html(
        openapi_url="openapi.json",
        title="bertheads",
        swagger_js_url="docs/swagger-ui-bundle.js",
        swagger_css_url="docs/swagger-ui.css",
        swagger_favicon_url="data:,",
    )
    html = bytes(page.body).decode()
    policy = f"script-src 'self' {_hash(html, 'script')}; style-src 'self' 'unsafe-inline'; img-src 'self' data:"
    return _page(html, policy)


@router.get("/docs/{name}")
async def docs_asset(name: str) -> Response:
    """Return a file of Swagger UI."""
    if name not in ASSETS:
        raise NotFound(f"there is no {name[:80]!r}; there are {', '.join(ASSETS)}")
    content = files("fastapi_swagger.resources").joinpath(name).read_bytes()
    return Response(content, media_type=ASSETS[name], headers={"Cache-Control": "max-age=86400"})


def _page(html: str, policy: str) -> HTMLResponse:
    headers = {
        "Content-Security-Policy": f"{SEALED}; {policy}",
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
    }
    return HTMLResponse(html, headers=headers)


def _hash(html: str, element: str) -> str:
    """Return the hash of the page's own <script> or <style>, as a policy names it."""
    content = re.search(f"<{element}>(.*?)</{element}>", html, re.DOTALL)
    assert content, f"the page has no <{element}>"
    return f"'sha256-{base64.b64encode(hashlib.sha256(content[1].encode()).digest()).decode()}'"
