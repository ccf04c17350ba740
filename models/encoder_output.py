"""The vectors of an encoder until the heads have read them: in host memory, or on the GPU that computed them.

With host memory, the vectors of a GPU would be copied there and back. For a question of 384 tokens and BERT-large this
is 1.5 MB each way, which takes longer than the network itself.
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
    """Vectors [N, H] in host memory; positions that several heads read are computed once."""

    _places: Ids | None

    def __init__(self, encoder: InferenceSession, inputs: dict[str, Ids], several: bool, least: int = 1) -> None:
        """Run the encoder. At least `least` positions are passed to it; see `spread`.

        `several`: more than one head reads the vectors, so positions may repeat.
        """
        asked, self._places = inputs["positions"], None
        if several:
            asked, self._places = np.unique(asked, return_inverse=True)
        self._vectors: Floats = encoder.run(["vectors"], inputs | {"positions": spread(asked, least)})[0]

    def read(self, head: InferenceSession, start: int, end: int) -> Logits:
        """Return a head's logits for the vectors from `start` to `end` (exclusive)."""
        read = slice(start, end) if self._places is None else self._places[start:end]
        logits: Logits = head.run(["logits"], {"vectors": self._vectors[read]})[0]
        return logits


class DeviceVectors:
    """Vectors [N, H] that stay on a device; only logits are copied to the host."""

    def __init__(self, encoder: InferenceSession, inputs: dict[str, Ids], device: Device, least: int = 1) -> None:
        """Run the encoder. At least `least` positions are passed to it; see `spread`."""
        self._device = device
        binding = encoder.io_binding()
        for name, values in (inputs | {"positions": spread(inputs["positions"], least)}).items():
            binding.bind_cpu_input(name, values)
        binding.bind_output("vectors", device.provider, device.number)
        encoder.run_with_iobinding(binding)
        self._vectors: OrtValue = binding.get_outputs()[0]

    def read(self, head: InferenceSession, start: int, end: int) -> Logits:
        """Return a head's logits for the vectors from `start` to `end` (exclusive)."""
        logits: Logits = self._run(head, start, end, CPU).copy_outputs_to_cpu()[0]
        return logits

    def keep(self, head: InferenceSession, start: int, end: int) -> OrtValue:
        """Return the same logits, but leave them on the device."""
        return self._run(head, start, end, self._device).get_outputs()[0]

    def _run(self, head: InferenceSession, start: int, end: int, to: Device) -> Any:
        """Run a head whose logits go to the device `to`; return the binding with the logits."""
        width = self._vectors.shape()[1]
        first = self._vectors.data_ptr() + start * width * np.dtype(np.float32).itemsize
        binding = head.io_binding()
        shape = [end - start, width]
        binding.bind_input("vectors", self._device.provider, self._device.number, np.float32, shape, first)
        binding.bind_output("logits", to.provider, to.number)
        head.run_with_iobinding(binding)
        return binding


def spread(positions: Ids, least: int) -> Ids:
    """Repeat positions if there are fewer than `least`.

    A matrix product of one row sums in another order than one of several rows, which changes the last bits in fp16.
    """
    return positions if len(positions) >= least else np.repeat(positions, least)


Vectors = HostVectors | DeviceVectors
