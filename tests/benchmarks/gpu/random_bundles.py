"""Bundles of random weights over the starter's vocabulary, exported without measuring their parity.

`python -m tests.benchmarks.gpu.random_bundles NETWORK DIRECTORY` makes one beforehand, where torch is, for a machine
without it: see --bundles. That of BERT-large takes 2.1 GB.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import torch

from models.bundle import read_bundle, seal
from models.config import EncoderConfig
from models.encoder import Encoder
from models.onnx_runtime import Precision
from models.task import HeadSpec
from models.tokenizer import Tokenizer
from service.settings import STARTER
from tests.benchmarks.load import BenchmarkError
from tests.service.bundles import write_bundle
from training.exporting.encoder_builder import EncoderBuilder
from training.exporting.encoder_graph import ROWS, fingerprint
from training.exporting.graph_builder import OPSET, Value

SIZES = {"tiny": (2, 64, 1), "base": (12, 768, 12), "large": (24, 1024, 16)}
"""Layers, width, attention heads."""
HEADS = {
    "classify": HeadSpec("classify", ["a", "b"]),
    "qa": HeadSpec("qa", []),
    "fill-mask": HeadSpec("fill-mask", []),
}


def config_of(network: str, vocab_size: int) -> EncoderConfig:
    if network not in SIZES:
        raise BenchmarkError(f"there is no network {network!r}, expected {', '.join(SIZES)}; --bundles takes others")
    layers, width, heads = SIZES[network]
    return EncoderConfig(vocab_size, width, layers, heads, 4 * width)


def make(network: str, directory: Path, precisions: Sequence[Precision]) -> Path:
    """Write a bundle."""
    tokenizer = Tokenizer.read(STARTER)
    config = config_of(network, tokenizer.vocab_size)
    return write_bundle(directory, tokenizer, HEADS, network, precisions, config=config)


def padded(network: str, directory: Path) -> Path:
    """Write a bundle of the same weights whose graph in fp16 takes padded rows."""
    make(network, directory, ["fp16"])
    bundle = read_bundle(directory)
    vocab_size = bundle.manifest.encoder.vocab_size
    torch.manual_seed(len(HEADS))  # as write_bundle does
    encoder = Encoder(config_of(network, vocab_size)).eval()
    builder = PaddedBuilder(encoder)
    builder.build(vocab_size)
    config = encoder.config
    metadata = {"encoder": fingerprint(encoder), "max_length": config.max_position_embeddings, "packed": False}
    metadata |= {"layers": config.num_hidden_layers, "vocab_size": vocab_size}
    vectors: Value = ("vectors", onnx.TensorProto.FLOAT, ["N", config.hidden_size])
    onnx.save(builder.graph.model("encoder", ROWS, [vectors], metadata, OPSET), directory / "encoder.fp16.onnx")
    seal(directory, bundle.manifest)
    return directory


class PaddedBuilder(EncoderBuilder):
    """The graph of fp32, in fp16."""

    dtype = np.float16


def main(arguments: Sequence[str]) -> int:
    """Return the exit status."""
    if len(arguments) != 2:
        sys.stderr.write("usage: python -m tests.benchmarks.gpu.random_bundles NETWORK DIRECTORY\n")
        return 2
    sys.stdout.write(f"{make(arguments[0], Path(arguments[1]), ['fp16', 'fp32'])}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
