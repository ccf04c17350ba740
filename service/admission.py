"""Whether a request may wait: it is refused at once if it could not be answered in time.

An engine decides by the state of its own queue. A front decides by a recent copy of that state (service/board.py), so
that it can refuse requests under overload before it spends anything on them.
"""

import time
from dataclasses import dataclass
from typing import NamedTuple, Self

from service.errors import QueueFull, queue_full
from service.queue import Deadline
from service.settings import Settings

MARGIN = 1.1
"""Factor on estimated waits: without it, requests admitted at the edge of their deadline are answered too late."""
SLOWDOWN = 4
"""How many times its own computing time a request may wait beyond `queue_seconds`: long ones share with each other."""
RUN_TOKENS = {"cpu": 6, "cuda": 2048}
"""Of a run: measured with 6 x 384 on CPU (dev/LOG.md); on a GPU the launches of its kernels."""
NICENESS = 4
"""Added to that of lanes which compute on the CPU, so that the event loop can refuse excess requests at once. A lane
that feeds a GPU keeps the normal one: while it waits for a core, the GPU idles."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What an engine keeps within."""

    lanes: int
    batch_tokens: int
    """Tokens of a batch, padding included."""
    run_tokens: int
    """What a run costs whatever is in it, in tokens: where it pads, more padding than that costs more than two runs."""
    queued_tokens: int
    """Tokens that may wait."""
    queue_seconds: float
    """Seconds that a short request may be expected to wait for others; see SLOWDOWN for long ones."""
    lane_timeout: float
    """Seconds of one batch after which its lane counts as dead."""
    niceness: int = NICENESS
    """Added to the lanes' own."""

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
    """The state of a queue, as far as admission asks for it."""

    rows: float
    """That wait."""
    tokens: float
    """That wait."""
    first_tokens: float
    """Tokens of first turns, out of `tokens`."""
    running: float
    """Tokens of the batches that lanes run."""
    token_seconds: float
    """What all lanes together take per token, at their recent speed; 0 before the first batch."""
    run_seconds: float
    """What they take per batch beyond that: on a GPU, most of what a small one costs."""
    lag: float
    """Seconds from the end of a batch until the event loop has its answers."""

    @property
    def least_ahead(self) -> float:
        """Tokens that will be served before the shortest request that comes now."""
        return self.first_tokens + min(self.first_tokens, self.tokens - self.first_tokens)

    def seconds(self, tokens: float) -> float:
        """What all lanes together take for so many tokens."""
        return tokens * self.token_seconds + self.run_seconds if tokens else 0.0


def check_room(limits: Limits, load: Load, tokens: int, ahead: float, deadline: Deadline) -> None:
    """Raise QueueFull for `tokens` that would wait too long for those `ahead` of them in the queue."""
    waiting, limit = round(load.tokens), limits.queued_tokens
    if (excess := waiting + tokens - limit) > 0:
        raise queue_full(f"{waiting} tokens wait, and {tokens} more would exceed {limit}", load.seconds(excess))
    if not waiting:
        return  # whatever the speed was, the next batch shows what it is
    ahead += load.running + limits.batch_tokens  # one batch more, for younger rows that ride along with older ones
    left = deadline.at - time.monotonic() - load.lag
    late = MARGIN * load.seconds(ahead + tokens) - left
    if late > 0 and (alone := load.seconds(tokens)) > left:  # waiting would not help
        raise QueueFull(
            f"{tokens} tokens take {alone:.2g} s by themselves, but the deadline is in {max(0.0, left):.2g} s; "
            "send fewer or shorter inputs, or give more time"
        )
    if late > 0:
        raise queue_full(f"{waiting} tokens wait, and {tokens} more would be {late:.2g} s late", late)
    wait, longest = MARGIN * load.seconds(ahead), limits.queue_seconds + SLOWDOWN * load.seconds(tokens)
    if wait > longest:
        raise queue_full(f"the wait would be {wait:.2g} s, but at most {longest:.2g} s is allowed", wait - longest)
