"""The measured speed of the lanes. From it, admission estimates whether a request can be answered in time."""

NEWEST = 0.05
"""Weight of the newest batch in exponential moving averages: about the last twenty batches count."""
MAX_RATIO = 4
"""A batch that takes more than this many times the expected time counts as this many times."""


class Throughput:
    """The recent speed of a busy lane. The time of a batch includes the lane's overhead between two batches."""

    def __init__(self, run_tokens: int = 0) -> None:
        """`run_tokens` is the fixed cost of a batch, in tokens; on a GPU, it dominates the cost of small batches."""
        self._run_tokens = run_tokens
        self.tokens = 0.0
        self.time = 0.0
        """Seconds. Both sums decay exponentially, so older batches count less."""

    def add(self, tokens: int, seconds: float) -> None:
        """Count a batch; limit its time to MAX_RATIO times the expected one, in case the machine was suspended."""
        if self.tokens:
            seconds = min(seconds, MAX_RATIO * self.seconds(tokens))
        self.tokens = self.tokens * (1 - NEWEST) + tokens + self._run_tokens
        self.time = self.time * (1 - NEWEST) + seconds

    def seconds(self, tokens: float) -> float:
        """Seconds that a lane takes for a batch of this many tokens; 0 for no tokens, and before the first batch."""
        return (tokens + self._run_tokens) * self.token_seconds if tokens else 0.0

    @property
    def token_seconds(self) -> float:
        """Seconds per token, where a batch counts `run_tokens` extra tokens; 0 before the first batch."""
        return self.time / self.tokens if self.tokens else 0.0
