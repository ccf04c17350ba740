"""Protection against requests that foreign web pages make through a user's browser: checks of Host and Origin, CORS.

A page of another site can make a browser send requests to addresses that only the browser's machine can reach. If keys
are required this is harmless, because the page has none. Without keys, Host is checked if the service listens on a
loopback address (against DNS rebinding). Origin and Sec-Fetch-Site are checked on all requests except GET, HEAD and
OPTIONS, with the algorithm of Go's http.CrossOriginProtection. Programs other than browsers send neither header, so
their requests pass.
"""

import ipaddress
from collections.abc import Mapping
from functools import lru_cache

from starlette.types import Receive, Scope, Send

from service.errors import Forbidden
from service.settings import Settings

RawHeaders = list[tuple[bytes, bytes]]

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
OWN_SITE = frozenset({b"same-origin", b"none"})
"""Values of Sec-Fetch-Site for requests of the service's own page, and for addresses that a user typed."""
PRIVATE_DOMAINS = (".localhost", ".internal")
"""Domains that never exist in public DNS."""
VARY = (b"vary", b"Origin")
EXPOSED = (b"access-control-expose-headers", b"X-Bundle, X-Truncated, X-Request-Id, Server-Timing, Retry-After")
PREFLIGHT = [
    (b"access-control-allow-methods", b"GET, POST"),
    (
        b"access-control-allow-headers",
        b"authorization, content-type, user-agent, x-request-id, x-deadline-ms, x-bundle, traceparent, tracestate",
    ),
    (b"access-control-max-age", b"7200"),
]


class Origins:
    """Checks hosts and origins according to the settings."""

    def __init__(self, settings: Settings) -> None:
        self._origins = frozenset(origin.encode() for origin in settings.cors_origins)
        self._any_origin = b"*" in self._origins
        self._hosts = settings.allowed_hosts
        local = not settings.asks_for_key and _is_loopback(settings.host)
        self._any_host = "*" in self._hosts or not (self._hosts or local)
        self._knows_host = lru_cache(256)(self._knows)

    def check_host(self, headers: Mapping[bytes, bytes]) -> None:
        """Raise Forbidden if Host is not a name of the service; requests without Host pass, as browsers send one."""
        host = headers.get(b"host", b"")
        if not (self._any_host or not host or self._knows_host(host)):
            raise Forbidden(
                f"Host is {_shown(host)}, which is not a name of this service; "
                "to accept it, add it to the setting allowed_hosts (BERTHEADS_ALLOWED_HOSTS), or set a key",
                field="Host",
            )

    def check_site(self, method: str, headers: Mapping[bytes, bytes]) -> None:
        """Raise Forbidden if a page of an origin that is not allowed made the request."""
        origin, site = headers.get(b"origin"), headers.get(b"sec-fetch-site")
        if (origin is None and site is None) or method in SAFE_METHODS or self._allows(origin):
            return
        own = site in OWN_SITE if site is not None else _is_own(origin or b"", headers.get(b"host", b""))
        if not own:
            raise _foreign(origin)

    def is_preflight(self, method: str, headers: Mapping[bytes, bytes]) -> bool:
        """Whether this is a CORS preflight: a browser asks if a page may send a request."""
        return method == "OPTIONS" and b"origin" in headers and b"access-control-request-method" in headers

    async def answer_preflight(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 204; raise Forbidden for an origin that is not allowed. `headers_for` adds the allowed origin."""
        origin = dict(scope["headers"])[b"origin"]
        if not self._allows(origin):
            raise _foreign(origin)
        await send({"type": "http.response.start", "status": 204, "headers": [*PREFLIGHT]})
        await send({"type": "http.response.body", "body": b""})

    def headers_for(self, origin: bytes | None) -> RawHeaders:
        """Return the CORS headers of every response; with them, a page of an allowed origin can read it."""
        if not self._origins:
            return []
        if origin is None or not self._allows(origin):
            return [VARY]
        return [(b"access-control-allow-origin", origin), VARY, EXPOSED, (b"timing-allow-origin", origin)]

    def _allows(self, origin: bytes | None) -> bool:
        return origin is not None and (self._any_origin or origin in self._origins)

    def _knows(self, host: bytes) -> bool:
        name = _name(host.decode("latin-1").lower())
        return name in self._hosts or _is_private(name)


def _foreign(origin: bytes | None) -> Forbidden:
    whose = f"Origin is {_shown(origin)}, which" if origin else "the page that sent this"
    return Forbidden(
        f"{whose} is not allowed to use this service; "
        "to allow it, add its origin to the setting cors_origins (BERTHEADS_CORS_ORIGINS)",
        field="Origin",
    )


def _is_own(origin: bytes, host: bytes) -> bool:
    """Whether an origin equals the requested host; a proxy may have added the default port to Host, or removed it."""
    own = origin.lower().partition(b"://")[2]
    return bool(own) and host.lower() in (
        own,
        own + b":80",
        own + b":443",
        _name(own.decode("latin-1")).encode("latin-1"),
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _is_private(name: str) -> bool:
    """Whether a host is an address or a local name, so that an attacker cannot have registered it in public DNS."""
    if "." not in name or name.endswith(PRIVATE_DOMAINS):
        return True
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True


def _name(host: str) -> str:
    """Return a host without its port and without a trailing dot; an IPv6 address keeps its brackets."""
    address, bracket, _ = host.partition("]")
    return address + bracket if bracket else host.partition(":")[0].removesuffix(".")


def _shown(value: bytes) -> str:
    return repr(value[:80].decode("latin-1"))
