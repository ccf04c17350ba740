"""Admission control: a request that could not be answered in time is refused at once.

An engine decides by the state of its own queue. A front decides by a recent copy of that state (service/board.py), so
under overload it can refuse requests before it does any work for them.
"""

import time
from dataclasses import dataclass
from typing import NamedTuple, Self

from service.errors import QueueFull, queue_full
from service.queue import Deadline
from service.settings import Settings

MARGIN = 1.1
"""Safety factor on estimated waits: without it, requests admitted just within their deadline are answered too late."""
SLOWDOWN = 4
"""A request may wait this many times its own computing time beyond `queue_seconds`, as long requests take turns."""
RUN_TOKENS = {"cpu": 6, "cuda": 2048}
"""Fixed cost of a run, in tokens. CPU: measured with 6 layers of width 384 (dev/LOG.md); GPU: kernel launches."""
NICENESS = 4
"""Added to the niceness of lanes that compute on the CPU, so that the event loop can refuse excess requests at once.
A lane that feeds a GPU keeps normal priority: while it waits for a core, the GPU idles."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of an engine."""

    lanes: int
    batch_tokens: int
    """Maximum tokens of a batch, padding included."""
    run_tokens: int
    """Fixed cost of a run, in tokens. If a batch would need more padding than this, two runs are cheaper."""
    queued_tokens: int
    """Maximum tokens that may wait."""
    queue_seconds: float
    """Maximum expected wait of a short request, in seconds; see SLOWDOWN for long ones."""
    lane_timeout: float
    """A lane that runs one batch for longer than this many seconds counts as hung."""
    niceness: int = NICENESS
    """Added to the lanes' niceness."""

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Return the limits of the engine of one device."""
        return cls(
            lanes=settings.lane_count,
            batch_tokens=settings.token_budget,
            run_tokens=RUN_TOKENS[settings.provider],
            queued_tokens=settings.max_queued_tokens,
            queue_seconds=settings.max_queue_seconds,
            lane_timeout=settings.lane_timeout,
            niceness=NICENESS if settings.provider == "cpu" else 0,
        )


class Load(NamedTuple):
    """The state of a queue that admission needs."""

    rows: float
    """Rows that wait."""
    tokens: float
    """Tokens that wait."""
    first_tokens: float
    """Those of `tokens` that belong to first turns."""
    running: float
    """Tokens of the batches that lanes run."""
    token_seconds: float
    """Seconds per token of all lanes together, at their recent speed; 0 before the first batch."""
    run_seconds: float
    """Additional seconds per batch; on a GPU, this is most of the cost of a small batch."""
    lag: float
    """Seconds from the end of a batch until the event loop has its answers."""

    @property
    def least_ahead(self) -> float:
        """Tokens that will be served before the shortest possible request, if it came now."""
        return self.first_tokens + min(self.first_tokens, self.tokens - self.first_tokens)

    def seconds(self, tokens: float) -> float:
        """Seconds that all lanes together take for this many tokens."""
        return tokens * self.token_seconds + self.run_seconds if tokens else 0.0


def check_room(limits: Limits, load: Load, tokens: int, ahead: float, deadline: Deadline) -> None:
    """Raise QueueFull if a request of `tokens` would wait too long, with `ahead` tokens served before it."""
    waiting, limit = round(load.tokens), limits.queued_tokens
    if (excess := waiting + tokens - limit) > 0:
        raise queue_full(f"{waiting} tokens wait, and {tokens} more would exceed {limit}", load.seconds(excess))
    if not waiting:
        return  # admit it even if the measured speed was low: only a new batch can correct the measurement
    ahead += load.running + limits.batch_tokens  # one more batch, for newer rows that are batched with older ones
    left = deadline.at - time.monotonic() - load.lag
    late = MARGIN * load.seconds(ahead + tokens) - left
    if late > 0 and (alone := load.seconds(tokens)) > left:  # waiting would not help
        raise QueueFull(
            f"{tokens} tokens take {alone:.2g} s by themselves, but the deadline is in {max(0.0, left):.2g} s; "
            "send fewer or shorter inputs, or allow more time by X-Deadline-Ms or BERTHEADS_DEADLINE"
        )
    if late > 0:
        raise queue_full(f"{waiting} tokens wait, and {tokens} more would be {late:.2g} s late", late)
    wait, longest = MARGIN * load.seconds(ahead), limits.queue_seconds + SLOWDOWN * load.seconds(tokens)
    if wait > longest:
        raise queue_full(f"the wait would be {wait:.2g} s, but at most {longest:.2g} s is allowed", wait - longest)
