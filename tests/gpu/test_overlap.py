"""If this fails, the GPU waits while Python prepares a batch or reads its answers."""

from pathlib import Path

from tests.standins.emulated_gpu import EmulatedGPU

BATCHES = 12


def late(gpu: EmulatedGPU, bundle: Path, threads: int) -> int:
    """Return how many times the device was idle before a kernel while this many threads ran batches."""
    slow = EmulatedGPU(gpu.logs, settings={"KERNEL_US": 1000})  # the host is faster, however busy this machine is
    count: int = slow.probe(bundle, "--batches", str(BATCHES), "--threads", str(threads)).found["late"]
    return count


def test_the_device_does_not_wait_with_two_batches_in_flight(gpu: EmulatedGPU, base: Path) -> None:
    assert late(gpu, base, 1) >= 2 * BATCHES - 1, "an encoder and a head wait for each other"
    assert late(gpu, base, 2) < BATCHES, "what one batch waits for, another one fills"
