"""If these fail, nodes run on the wrong device, the GPU waits for copies, or each new batch builds a plan."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.standins.build import built
from tests.standins.emulated_gpu import EmulatedGPU, Probe

NO_PLAN = {"FLASH_ATTENTION", "EFFICIENT_ATTENTION", "TRT_FUSED_ATTENTION", "TRT_FLASH_ATTENTION"}
"""Kernels for any shape; CUDNN_FLASH_ATTENTION builds a plan for each, and MATH keeps the scores of all pairs."""
LAYERS = 12
LAUNCHES = 9 * LAYERS + 3 + 2
"""Kernels and products of a batch: nine of each layer, which is the provider's least; the embeddings, a Gather of the
positions and a Cast around them; and a product with its bias in the head for questions."""


def assert_on_gpu(probe: Probe) -> None:
    assert {provider for provider, _ in probe.nodes} == {"CUDAExecutionProvider"}
    assert probe.copy_nodes == 0


def test_every_node_of_an_imported_network_runs_on_the_gpu(gpu: EmulatedGPU, base: Path) -> None:
    probe = gpu.probe(base)
    assert_on_gpu(probe)
    assert len(probe.nodes) == 2 and probe.nodes[0][1] > 100, "an encoder and a head"


def test_every_node_of_all_heads_runs_on_the_gpu(gpu: EmulatedGPU, small: Path) -> None:
    probe = gpu.probe(small)
    assert_on_gpu(probe)
    assert len(probe.nodes) == 8, "an encoder, six heads, and what chooses tokens"


def test_every_node_of_the_starter_runs_on_the_gpu(gpu: EmulatedGPU, starter: Path) -> None:
    probe = gpu.probe(starter, "--batches", "1")
    assert_on_gpu(probe)
    assert set(probe.attention) <= NO_PLAN, probe.attention


@pytest.mark.parametrize("capability", [75, 80, 86, 89, 90, 120])
def test_attention_uses_a_kernel_for_any_shape(gpu: EmulatedGPU, base: Path, capability: int) -> None:
    probe = EmulatedGPU(gpu.logs, capability).probe(base, "--batches", "4")
    assert set(probe.attention) <= NO_PLAN, probe.attention
    assert probe.attention.total() >= 4 * LAYERS, "ONNX Runtime says it of each layer"


def test_cudnn_is_not_needed(gpu: EmulatedGPU, base: Path, small: Path, tmp_path: Path) -> None:
    for library in built().glob("lib*"):
        if "cudnn" not in library.name:
            (tmp_path / library.name).symlink_to(library)
    without = replace(gpu, libraries=tmp_path)
    for probe in without.probe(base, "--batches", "1"), without.probe(small, "--batches", "1", "--masks", "2"):
        assert_on_gpu(probe)


def test_no_batch_builds_a_plan(gpu: EmulatedGPU, base: Path) -> None:
    probe = gpu.probe(base, "--batches", "200")
    assert gpu.read()[0].count("plan") == 0
    assert len(probe.found["batches"]) == 200


def test_the_number_of_launches_per_batch(gpu: EmulatedGPU, base: Path) -> None:
    batches = gpu.probe(base, "--batches", "10").found["batches"]
    assert {batch["launches"] for batch in batches} == {LAUNCHES}


def test_the_copies_of_a_batch(gpu: EmulatedGPU, base: Path) -> None:
    """Ids go to the device once, and only logits come back."""
    for batch in gpu.probe(base, "--batches", "10").found["batches"]:
        back = [size for direction, size, times in batch["copies"] for _ in range(times) if direction == "DtoH"]
        assert back == [batch["rows"] * 2 * 4], "start and end of one position of each row, in fp32"
        there = [size for direction, size, times in batch["copies"] for _ in range(times) if direction == "HtoD"]
        assert len(there) <= 8 and sum(there) < 200 * batch["tokens"]
        assert batch["missing"] == [], "the stand-ins have all that it asks for"


def test_the_copies_of_masks(gpu: EmulatedGPU, small: Path) -> None:
    """Five tokens of a mask and their probabilities come back, and no logits of the vocabulary."""
    for batch in gpu.probe(small, "--batches", "4", "--masks", "8").found["batches"]:
        back = [size for direction, size, times in batch["copies"] for _ in range(times) if direction == "DtoH"]
        masks = 8 * batch["rows"]
        assert sorted(back) == [0, masks * 5 * 4, masks * 5 * 8], "fp32 and int64; nobody named targets"


def test_memory_stops_growing(gpu: EmulatedGPU, base: Path) -> None:
    batches = gpu.probe(base, "--batches", "60").found["batches"]
    assert sum(batch["takes"] for batch in batches[:30]) > sum(batch["takes"] for batch in batches[30:])
