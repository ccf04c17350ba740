"""ONNX Runtime: opens graphs on a provider, and reads their signature and metadata.

The metadata of a graph must agree with the bundle: the fingerprint of the encoder, and for heads the task and labels.
Nothing here imports onnx.
"""

import json
import logging
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import onnxruntime
from onnxruntime.datasets import get_example

from models.errors import BundleError
from models.gpu import check_gpu

logger = logging.getLogger(__name__)

Precision = Literal["int8", "fp16", "fp32"]
Provider = Literal["cpu", "cuda"]

NAMES: dict[Provider, str] = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
CUDA_OPTIONS = {
    "use_tf32": "0",  # TF32 has only 10 bits of mantissa, but parity.json was measured in fp32
    "enable_skip_layer_norm_strict_mode": "1",  # sum in fp32; sums in fp16 lose one bit of precision
}
CUDA_ATTENTION, CPU_ATTENTION = "PackedMultiHeadAttention", "PaddedMultiHeadAttention"
"""The operator that a packed graph calls, which only CUDA has, and the graph's own function that replaces it on CPU."""
FLASH = ("ORT_MIN_SEQ_LEN_FLASH_ATTENTION_PACKED_QKV", "0")
"""FlashAttention with packed query, key and value is used if the longest row has this many tokens; default 513."""
Levels = onnxruntime.GraphOptimizationLevel
# Our graphs are fused at export. On CPU the extended level would still turn Add and LayerNormalization into
# SkipLayerNormalization, whose CPU kernel takes five times as long as the two operators.
LEVELS: dict[Provider, Any] = {"cpu": Levels.ORT_ENABLE_BASIC, "cuda": Levels.ORT_ENABLE_ALL}
CONSTANTS_FOLDER = "session.model_external_initializers_file_folder_path"
ERRORS_ONLY = 3
FLUSH = ("session.set_denormal_as_zero", "1")
MIN_VERSION = (1, 26)
KERNELS = Path(__file__).with_name("kernels.so")
"""The library that kernels/ is compiled to at installation, if there is a C compiler."""
SPIN = 50
"""Microseconds that a thread spins to wait for the next operator; waking it takes as long as a small operator."""


Constants = Path | dict[str, bytes]
"""The files of a graph's constants: the directory that holds them, or their contents by name."""
NOWHERE = "/dev/null/none"
"""A directory that cannot exist; if none is set, ONNX Runtime looks for constants in the working directory."""


@dataclass(frozen=True)
class Graph:
    """A graph that has been read but not opened."""

    path: Path
    """Its file, used only in messages."""
    contents: bytes
    constants: Constants

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a graph whose constants are in the same directory."""
        return cls(path, path.read_bytes(), path.parent)


@dataclass(frozen=True)
class Signature:
    """Inputs and outputs of a graph as name → (element type, shape), and its metadata."""

    inputs: dict[str, tuple[str, list[int | str | None]]]
    outputs: dict[str, tuple[str, list[int | str | None]]]
    metadata: dict[str, str]


@dataclass(frozen=True)
class Device:
    """Where a graph runs."""

    provider: Provider = "cpu"
    number: int = 0
    """Number of the GPU, as in nvidia-smi."""
    memory: int = 0
    """Maximum bytes of GPU memory per graph; 0: no limit."""

    @property
    def providers(self) -> list[Any]:
        """The providers and their options, for ONNX Runtime."""
        if self.provider == "cpu":
            return [NAMES["cpu"]]
        limit = {"gpu_mem_limit": str(self.memory)} if self.memory else {}
        return [(NAMES["cuda"], CUDA_OPTIONS | {"device_id": str(self.number)} | limit), NAMES["cpu"]]


CPU = Device()


def open_graph(
    graph: Graph, device: Device = CPU, threads: int = 1, spins: bool = False
) -> onnxruntime.InferenceSession:
    """Load a graph for running; raise BundleError if the file is not a graph, or if the provider is not available.

    `spins`: threads spin while they wait for each other; only useful if no other work needs the cores.
    """
    provider = device.provider
    options = _options(threads, spins)
    options.graph_optimization_level = LEVELS[provider]
    prepare(provider, device.number)
    if provider == "cpu":
        options.add_session_config_entry("session.use_env_allocators", "1")  # the allocator that `prepare` registers
        if _flushes():  # otherwise the session's own threads would compute with denormals
            options.add_session_config_entry(*FLUSH)
    session = _load(graph, options, device.providers)
    # If a CUDA library is missing, ONNX Runtime silently runs on CPU.
    _check_provider(provider, session.get_providers())
    return session


def metadata_of(session: onnxruntime.InferenceSession) -> dict[str, Any]:
    """Return the metadata of a graph from our export, by name."""
    return {key: json.loads(value) for key, value in session.get_modelmeta().custom_metadata_map.items()}


@cache
def prepare(provider: Provider, number: int) -> None:
    """Prepare a provider before its first session: load its libraries, or register its memory allocator.

    `number` is that of the device. Raises BundleError if the provider is not available.
    """
    _check_version()
    _check_provider(provider, onnxruntime.get_available_providers())
    if provider == "cuda":
        _prepare_cuda(number)
        return
    # All graphs on CPU share this arena. Otherwise each graph would keep the memory of its largest run.
    arena = onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR
    memory = onnxruntime.OrtMemoryInfo("Cpu", arena, 0, onnxruntime.OrtMemType.DEFAULT)
    onnxruntime.create_and_register_allocator(memory, None)


def _prepare_cuda(number: int) -> None:
    """Load CUDA and cuDNN from the packages of pip; raise BundleError if the GPU or a library is missing.

    ONNX Runtime would silently run on CPU, for which packed graphs have no kernel.
    """
    check_gpu(number)
    os.environ.setdefault(*FLASH)  # before the first session
    onnxruntime.set_default_logger_severity(ERRORS_ONLY)  # it would warn for each session that there is no plugin
    onnxruntime.preload_dlls()
    wanted = Device("cuda", number).providers
    session = onnxruntime.InferenceSession(get_example("mul_1.onnx"), _options(1), providers=wanted)
    _check_provider("cuda", session.get_providers())


def flush_denormals() -> None:
    """Flush denormal numbers (below 1e-38) to zero, in this thread and in all threads that it starts later.

    The attention weights of padded keys pass through denormals, which are about a hundred times as slow as normal
    numbers. Answers do not change. ONNX Runtime sets this only in the thread that opens the first graph of the process;
    after any graph was opened, a call has no effect.
    """
    options = _options(1)
    options.add_session_config_entry(*FLUSH)
    onnxruntime.InferenceSession(get_example("mul_1.onnx"), options, providers=[NAMES["cpu"]])


def _flushes() -> bool:
    """Whether this thread flushes denormal numbers to zero."""
    return bool(np.float32(1e-38) * np.float32(0.1) == 0)


def read_signature(graph: Graph) -> Signature:
    """Read the inputs, outputs and metadata of a graph; raise BundleError if the file is not a graph."""
    options = _options(1)
    options.graph_optimization_level = Levels.ORT_DISABLE_ALL
    options.add_session_config_entry("session.disable_prepacking", "1")  # it will not run
    session = _load(graph, options, CPU.providers)
    return Signature(
        {value.name: (value.type, value.shape) for value in session.get_inputs()},
        {value.name: (value.type, value.shape) for value in session.get_outputs()},
        dict(session.get_modelmeta().custom_metadata_map),
    )


def metadata_json(metadata: dict[str, str], key: str, path: Path) -> Any:
    """Return a value in a graph's metadata; raise BundleError if it is missing, as in graphs not from our export."""
    try:
        return json.loads(metadata[key])
    except (KeyError, ValueError):
        raise BundleError(f"{path}: the graph has no metadata {key!r}; export the bundle again") from None


def _check_version() -> None:
    version = onnxruntime.__version__
    if tuple(map(int, version.split(".")[:2])) < MIN_VERSION:
        least = ".".join(map(str, MIN_VERSION))
        raise BundleError(
            f"ONNX Runtime is {version}, which ignores the lengths of rows in attention or how long threads may spin, "
            f"expected {least} or newer; pip install 'onnxruntime>={least}'"
        )


def _check_provider(provider: Provider, found: list[str]) -> None:
    if NAMES[provider] not in found:
        raise BundleError(
            f"ONNX Runtime {onnxruntime.__version__} runs on {', '.join(found)} here, expected {NAMES[provider]}; "
            "install onnxruntime-gpu and the libraries of the extra gpu in place of onnxruntime"
        )


@cache
def find_kernels() -> Path | None:
    """Return the library of our own operators, or None, with a warning, if it was not compiled or does not load.

    Graphs also run without it, because they define our operators as functions of ONNX's operators.
    """
    if not KERNELS.exists():
        logger.warning("%s is missing: int8 takes 1.5 times as long; install a C compiler and run pip again", KERNELS)
        return None
    try:
        onnxruntime.SessionOptions().register_custom_ops_library(str(KERNELS))
    except Exception as error:  # its exceptions share no other base
        reason = str(error).splitlines()[0][:200]
        logger.warning("%s does not load (%s): int8 takes 1.5 times as long; run pip again", KERNELS, reason)
        return None
    return KERNELS


def _options(threads: int, spins: bool = False) -> Any:
    options = onnxruntime.SessionOptions()
    if kernels := find_kernels():
        options.register_custom_ops_library(str(kernels))
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spins)))  # lanes share the cores
    options.add_session_config_entry("session.intra_op.spin_duration_us", str(SPIN))
    options.enable_mem_pattern = False  # it keeps a plan per shape for ever, and shapes hardly ever repeat
    options.log_severity_level = ERRORS_ONLY
    return options


def _load(graph: Graph, options: Any, providers: list[Any]) -> onnxruntime.InferenceSession:
    in_memory = isinstance(graph.constants, dict)
    options.add_session_config_entry(CONSTANTS_FOLDER, NOWHERE if in_memory else str(graph.constants))
    if isinstance(graph.constants, dict) and graph.constants:
        sizes = [len(contents) for contents in graph.constants.values()]
        options.add_external_initializers_from_files_in_memory(
            list(graph.constants), list(graph.constants.values()), sizes
        )
    contents = graph.contents
    if providers == CPU.providers:
        contents = contents.replace(CUDA_ATTENTION.encode(), CPU_ATTENTION.encode())
    try:
        session = onnxruntime.InferenceSession(contents, options, providers=providers)
    except Exception as error:  # its exceptions share no other base
        reason = str(error).splitlines()[0][:200]
        raise BundleError(
            f"{graph.path} is not an ONNX graph that loads ({reason}); restore it or export again"
        ) from None
    session._model_bytes = None  # otherwise the session would keep them in memory
    return session
