"""infinity with its engine for CPU, on int8: python -m tests.benchmarks.infinity_service CHECKPOINT PORT.

The graph is exported by optimum, and quantized to what its documentation names for VNNI: weights by column, activations
by batch.
"""

import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from infinity_emb.cli import cli  # type: ignore[import-not-found]  # of an environment of its own, as optimum
from optimum.exporters.onnx import main_export  # type: ignore[import-not-found]
from optimum.onnxruntime import ORTQuantizer  # type: ignore[import-not-found]
from optimum.onnxruntime.configuration import AutoQuantizationConfig  # type: ignore[import-not-found]


def quantize(checkpoint: Path, directory: Path) -> Path:
    """Write the int8 graph of a classifier, and return where it is."""
    graph, quantized = directory / "fp32", directory / "int8"
    main_export(str(checkpoint), output=graph, task="text-classification")
    scheme = AutoQuantizationConfig.avx512_vnni(is_static=False, per_channel=True)
    ORTQuantizer.from_pretrained(graph).quantize(save_dir=quantized, quantization_config=scheme)
    return quantized


if __name__ == "__main__":
    with TemporaryDirectory() as temporary:
        os.chdir(quantize(Path(sys.argv[1]), Path(temporary)))  # it finds a graph on disk by "." alone
        options = "v2 --model-id . --engine optimum --device cpu --no-compile --served-model-name m --host 127.0.0.1"
        options += " --no-model-warmup"  # which is longer than 512 tokens, and this engine does not cut
        sys.argv[1:] = [*options.split(), "--port", sys.argv[2]]
        cli()
