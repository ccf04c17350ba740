"""The parts that an export copies byte for byte from the base bundle, or from the bundle that it exports again.

int8 weights that are rounded again change answers a little. But a head that is added on an unchanged encoder
(`freeze_encoder`) must not change the others.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from shutil import copyfile

import torch

from models.bundle import Bundle
from models.checkpoint import Checkpoint, Head
from models.encoder import Encoder
from models.heads import activation_of
from models.manifest import HEADS
from models.onnx_runtime import Graph, Precision, metadata_json, read_signature
from training.errors import ExportError
from training.parity.measure import REFERENCE
from training.run.start_from import unpack

CONSTANTS = "*.bin"


@dataclass(frozen=True)
class Kept:
    """The graphs of a bundle's encoder, and of its heads with the weights of a checkpoint."""

    bundle: Bundle
    files: dict[Precision, str]
    """Files of the encoder."""
    heads: list[str]

    @classmethod
    def of(cls, bundle: Bundle, checkpoint: Checkpoint, precisions: Sequence[Precision]) -> "Kept":
        """Compare a bundle and a checkpoint; raise ExportError if they have different encoders.

        Precisions that the bundle lacks are made from its weights, with their rounding.
        """
        found = bundle.manifest.encoder.files
        files = {name: file for name, file in found.items() if name in (precisions or found)}
        before = unpack(bundle)
        if not _alike(before.encoder, checkpoint.encoder):
            raise ExportError(
                f"the checkpoint's encoder is not that of {bundle.directory}, expected the same weights; finetune with "
                f'base = "{bundle.directory}" and freeze_encoder = true, or export without --base'
            )
        entries = bundle.manifest.heads
        # If the encoder is only in int8, the decoder of fill-mask is integer, and GPUs have no kernel for that.
        redone = {"fill-mask"} if set(found) == {"int8"} != set(precisions or found) else set()
        in_place = [name for name in entries if entries[name].file == f"{HEADS}/{name}.onnx"]
        kept = [name for name in in_place if entries[name].task not in redone]
        return cls(bundle, files, [name for name in kept if _same(before.heads[name], checkpoint.heads.get(name))])

    @property
    def mark(self) -> str:
        """The fingerprint in the bundle's graphs, which ties heads to their encoder."""
        path = self.bundle.directory / next(iter(self.bundle.manifest.encoder.files.values()))
        return str(metadata_json(read_signature(Graph.read(path)).metadata, "encoder", path))

    @property
    def reference(self) -> str:
        """The reference in parity.json: PyTorch with the weights of the bundle, which may be rounded."""
        rounded = "" if "fp32" in self.bundle.manifest.encoder.files else ", rounded as it has them"
        return f"{REFERENCE}, with the encoder's weights of {self.bundle.manifest.name}{rounded}"

    def copy(self, directory: Path) -> None:
        """Copy the graphs and their shared constants to the same paths as in the bundle."""
        source, manifest = self.bundle.directory, self.bundle.manifest
        graphs = [*self.files.values(), *(manifest.heads[name].file for name in self.heads)]
        named = b"".join((source / graph).read_bytes() for graph in graphs)
        found = [path.relative_to(source) for path in source.rglob(CONSTANTS)]
        constants = [path.as_posix() for path in found if path.name.encode() in named]
        for file in (*graphs, *constants):
            (directory / file).parent.mkdir(parents=True, exist_ok=True)
            copyfile(source / file, directory / file)


def _alike(before: Encoder, after: Encoder) -> bool:
    """Tell whether weights are equal, except for rounding when another machine unpacks a bundle."""
    mine, theirs = before.state_dict(), after.state_dict()
    return mine.keys() == theirs.keys() and all(
        values.shape == theirs[name].shape and torch.allclose(values, theirs[name], rtol=1e-6, atol=1e-6)
        for name, values in mine.items()
    )


def _same(before: Head, after: Head | None) -> bool:
    if after is None or (before.spec.task, before.spec.labels) != (after.spec.task, after.spec.labels):
        return False
    if activation_of(before.module) != activation_of(after.module):
        return False
    weights = before.module.state_dict()
    return all(torch.equal(weights[name], values) for name, values in after.module.state_dict().items())
