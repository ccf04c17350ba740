"""Where the vectors of an encoder lie until the heads have read them: in memory, or on the device that computes.

Between a GPU and memory the vectors of a question of 384 tokens would travel twice, 1.5 MB each way for BERT-large, and
take longer than the network itself.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnxruntime import InferenceSession, OrtValue

from models.onnx_runtime import CPU, Device
from models.task import Logits

Ids = NDArray[Any]
Floats = NDArray[np.float32]


class HostVectors:
    """Vectors [N, H] in memory; those that several heads read are computed once."""

    _places: Ids | None

    def __init__(self, encoder: InferenceSession, inputs: dict[str, Ids], several: bool, least: int = 1) -> None:
        """Run the encoder at `least` so many positions. `several`: more than one head reads, so they may repeat."""
        asked, self._places = inputs["positions"], None
        if several:
            asked, self._places = np.unique(asked, return_inverse=True)
        self._vectors: Floats = encoder.run(["vectors"], inputs | {"positions": spread(asked, least)})[0]

    def read(self, head: InferenceSession, start: int, end: int) -> Logits:
        """Return what a head makes of the vectors from `start` to before `end`."""
        read = slice(start, end) if self._places is None else self._places[start:end]
        logits: Logits = head.run(["logits"], {"vectors": self._vectors[read]})[0]
        return logits


class DeviceVectors:
    """Vectors [N, H] on a device, of which only logits come back."""

    def __init__(self, encoder: InferenceSession, inputs: dict[str, Ids], device: Device, least: int = 1) -> None:
        """Run the encoder at `least` so many positions."""
        self._device = device
        binding = encoder.io_binding()
        for name, values in (inputs | {"positions": spread(inputs["positions"], least)}).items():
            binding.bind_cpu_input(name, values)
        binding.bind_output("vectors", device.provider, device.number)
        encoder.run_with_iobinding(binding)
        self._vectors: OrtValue = binding.get_outputs()[0]

    def read(self, head: InferenceSession, start: int, end: int) -> Logits:
        """Return what a head makes of the vectors from `start` to before `end`."""
        logits: Logits = self._run(head, start, end, CPU).copy_outputs_to_cpu()[0]
        return logits

    def keep(self, head: InferenceSession, start: int, end: int) -> OrtValue:
        """Return the same, which stays on the device."""
        return self._run(head, start, end, self._device).get_outputs()[0]

    def _run(self, head: InferenceSession, start: int, end: int, to: Device) -> Any:
        """Run a head whose logits go to a device; return their binding."""
        width = self._vectors.shape()[1]
        first = self._vectors.data_ptr() + start * width * np.dtype(np.float32).itemsize
        binding = head.io_binding()
        shape = [end - start, width]
        binding.bind_input("vectors", self._device.provider, self._device.number, np.float32, shape, first)
        binding.bind_output("logits", to.provider, to.number)
        head.run_with_iobinding(binding)
        return binding


def spread(positions: Ids, least: int) -> Ids:
    """Repeat positions that are fewer: a product of one row sums in another order, which shows in the bits of fp16."""
    return positions if len(positions) >= least else np.repeat(positions, least)


Vectors = HostVectors | DeviceVectors
