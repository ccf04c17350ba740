"""Tokens per second of a lane, by which a request learns at once whether it can be answered in time."""

NEWEST = 0.05
"""Weight of the newest batch in running means: about the last twenty count."""
MAX_RATIO = 4
"""How much slower than expected a batch can be and still count in full."""


class Throughput:
    """How fast a busy lane is of late, all that it does from batch to batch included."""

    def __init__(self, run_tokens: int = 0) -> None:
        """`run_tokens`: what a batch costs whatever is in it, in tokens; on a GPU, most of what a small one costs."""
        self._run_tokens = run_tokens
        self.tokens = 0.0
        self.time = 0.0
        """Seconds; both are sums in which a batch counts the less the older it is."""

    def add(self, tokens: int, seconds: float) -> None:
        """Count a batch; one that took far longer than expected, when the machine stood still, counts in part."""
        if self.tokens:
            seconds = min(seconds, MAX_RATIO * self.seconds(tokens))
        self.tokens = self.tokens * (1 - NEWEST) + tokens + self._run_tokens
        self.time = self.time * (1 - NEWEST) + seconds

    def seconds(self, tokens: float) -> float:
        """What a lane takes for a batch of so many tokens; 0 for none, and before the first batch."""
        return (tokens + self._run_tokens) * self.token_seconds if tokens else 0.0

    @property
    def token_seconds(self) -> float:
        """Seconds per token, of which a batch has `run_tokens` more; 0 before the first batch."""
        return self.time / self.tokens if self.tokens else 0.0
