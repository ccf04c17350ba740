"""Limits on a worker's connections and on their unparsed input, with logs and metrics of what was refused.

Above the limit, a new connection can only make health checks. Idle connections are closed to make room for new ones.
"""

import logging
import resource
import time
from typing import Literal, Protocol

from service.logs import FIELDS
from service.metrics import Metrics

logger = logging.getLogger(__name__)

MAX_FILES = 1 << 14
"""Maximum file descriptors of the process, if the system allows them; an idle connection takes 14 KB of memory."""
RESERVED_FILES = 128
"""File descriptors for everything that is not a connection: bundles, metrics, logs."""
RESERVED_CONNECTIONS = 32
"""Connections above the limit that may make health checks at the same time."""
MIN_CONNECTIONS = 16
MIN_IDLE_SECONDS = 5.0
"""An idle connection may be closed in favor of a new one after this time."""
MAX_HELD = 1 << 26
"""Maximum bytes of unparsed requests and unfinished header blocks, of all connections together."""

Access = Literal["all", "health", "none"]


class Closable(Protocol):
    """An idle connection."""

    def close_idle(self) -> None:
        """Close the connection."""


class Connections:
    """The state that all connections of a worker share."""

    def __init__(self, limit: int, metrics: Metrics) -> None:
        self.limit = limit
        self._metrics = metrics
        metrics.max_connections.set(limit)
        self._held = 0
        """Bytes of unparsed requests and unfinished header blocks."""
        self._idle: dict[Closable, float] = {}
        """Since when each connection has been idle (time.monotonic); the longest idle one comes first."""
        self._refused = RareLine("refused connections")
        self._malformed = RareLine("malformed requests")

    def access(self, connections: int) -> Access:
        """Return what a new connection may request; `connections` is the number of open ones, including it."""
        if connections <= self.limit or self._close_idle():
            return "all"
        return "health" if connections <= self.limit + RESERVED_CONNECTIONS else "none"

    def note(self, connections: int) -> None:
        """Set the metric of open connections."""
        self._metrics.connections.set(connections)

    def rest(self, connection: Closable) -> None:
        """Mark a connection as idle from now on."""
        self._idle[connection] = time.monotonic()

    def work(self, connection: Closable) -> None:
        """Mark a connection as no longer idle."""
        self._idle.pop(connection, None)

    def hold(self, change: int) -> bool:
        """Add to the bytes held (or subtract, if negative); return False if the total is then too large."""
        self._held += change
        return change <= 0 or self._held <= MAX_HELD

    def refuse(self, client: str, reason: str, detail: str) -> None:
        """Log and count a connection that is refused."""
        self._metrics.series(self._metrics.refused_connections, reason).inc()
        self._refused.write(client, reason, detail)

    def reject(self, client: str, reason: str, detail: str) -> None:
        """Log and count a request that is not valid HTTP."""
        self._metrics.series(self._metrics.malformed, reason).inc()
        self._malformed.write(client, reason, detail)

    def count(self, status: int) -> None:
        """Count a request that the app never sees."""
        self._metrics.series(self._metrics.requests, "other", "", str(status)).inc()

    def _close_idle(self) -> bool:
        """Close the connection that has been idle longest; return False if none has been idle long enough."""
        for connection, since in self._idle.items():
            if time.monotonic() - since < MIN_IDLE_SECONDS:
                return False
            del self._idle[connection]
            connection.close_idle()
            return True
        return False


class RareLine:
    """A log line that is written at most once per second, with the number of events since the last line."""

    def __init__(self, message: str) -> None:
        self._message = message
        self._count = 0
        self._next = 0.0

    def write(self, client: str, reason: str, detail: str) -> None:
        """Log an event, or count it for the next line."""
        self._count += 1
        now = time.monotonic()
        if now >= self._next:
            fields = {"count": self._count, "client": client, "reason": reason, "detail": detail}
            logger.warning(self._message, extra={FIELDS: fields})
            self._count, self._next = 0, now + 1.0


def raise_file_limit() -> None:
    """Raise the process's limit of open files as far as the system allows, up to MAX_FILES."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (OSError, ValueError) as error:  # macOS reports a higher limit than it accepts
            logger.warning("the limit of open files stays at %d: %s", soft, error)


def connection_limit(wanted: int) -> int:
    """Return the limit of connections: `wanted` (0: no preference), or fewer if the limit of open files requires it."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    files = MAX_FILES if files == resource.RLIM_INFINITY else min(files, MAX_FILES)
    possible = max(MIN_CONNECTIONS, files - RESERVED_FILES - RESERVED_CONNECTIONS)
    if wanted > possible:
        logger.warning("max_connections is %d, but the limit of open files (ulimit -n) allows %d", wanted, possible)
    return min(wanted or possible, possible)
