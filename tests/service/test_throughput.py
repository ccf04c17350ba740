"""If this breaks, requests are refused that could be answered, or wait for an answer that will be late."""

import pytest

from service.throughput import Throughput


def test_throughput_follows_recent_batches_and_a_stall_counts_only_in_part() -> None:
    throughput = Throughput()
    assert throughput.seconds(100) == 0
    for tokens, seconds in ((100, 1.0), (300, 2.0)):
        throughput.add(tokens, seconds)
    assert throughput.seconds(100) == pytest.approx(
        0.75, rel=0.02
    )  # all tokens by all seconds, not the mean of two speeds
    throughput.add(100, 60.0)
    assert throughput.seconds(100) < 1.5
    for _ in range(100):
        throughput.add(100, 3.0)
    assert throughput.seconds(100) == pytest.approx(3.0, rel=0.05)


def test_small_batches_predict_the_time_of_a_large_one() -> None:
    """On a GPU a batch of ten tokens takes nearly as long as one of thousands."""
    throughput = Throughput(run_tokens=2048)
    for tokens in (10, 20, 30):
        throughput.add(tokens, 0.005)
    assert throughput.seconds(10) == pytest.approx(0.005, rel=0.02)
    assert 0.005 < throughput.seconds(16_384) < 0.05
    assert throughput.seconds(0) == 0
