"""ONNX Runtime: how a graph is opened, on which provider, and what it says of itself.

A graph carries what a bundle must not contradict as metadata: the fingerprint of its encoder, and a head its task and
labels. Nothing here imports onnx.
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
    "use_tf32": "0",  # 10 bits of mantissa are not the fp32 that parity.json speaks of
    "enable_skip_layer_norm_strict_mode": "1",  # sums in fp32: those in fp16 lose a bit of every answer
}
CUDA_ATTENTION, CPU_ATTENTION = "PackedMultiHeadAttention", "PaddedMultiHeadAttention"
"""What a packed graph calls, which only CUDA has, and the function by which it defines the same for CPU."""
FLASH = ("ORT_MIN_SEQ_LEN_FLASH_ATTENTION_PACKED_QKV", "0")
"""Tokens of the longest row from which FlashAttention reads query, key and value of one product; by default 513."""
Levels = onnxruntime.GraphOptimizationLevel
# Our graphs are fused as they are written. On CPU the extended level would still turn Add and LayerNormalization into
# SkipLayerNormalization, whose CPU kernel takes five times as long as the two.
LEVELS: dict[Provider, Any] = {"cpu": Levels.ORT_ENABLE_BASIC, "cuda": Levels.ORT_ENABLE_ALL}
CONSTANTS_FOLDER = "session.model_external_initializers_file_folder_path"
ERRORS_ONLY = 3
FLUSH = ("session.set_denormal_as_zero", "1")
MIN_VERSION = (1, 26)
KERNELS = Path(__file__).with_name("kernels.so")
"""What kernels/ is compiled to when this is installed, if there is a C compiler."""
SPIN = 50
"""Microseconds that a thread stays awake for the next operator: waking it takes as long as a small operator does."""


Constants = Path | dict[str, bytes]
"""Files that a graph refers to: the directory that holds them, or their contents by name."""
NOWHERE = "/dev/null/none"
"""A directory that cannot exist: without one, ONNX Runtime looks for constants in the working directory."""


@dataclass(frozen=True)
class Graph:
    """A graph that is to be opened."""

    path: Path
    """Its file, for messages."""
    contents: bytes
    constants: Constants

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a graph that has its constants beside it."""
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
    """Of the GPU, as in nvidia-smi."""
    memory: int = 0
    """Bytes of GPU memory that each graph may take for its work; 0: all there are."""

    @property
    def providers(self) -> list[Any]:
        """What ONNX Runtime is asked for."""
        if self.provider == "cpu":
            return [NAMES["cpu"]]
        limit = {"gpu_mem_limit": str(self.memory)} if self.memory else {}
        return [(NAMES["cuda"], CUDA_OPTIONS | {"device_id": str(self.number)} | limit), NAMES["cpu"]]


CPU = Device()


def open_graph(
    graph: Graph, device: Device = CPU, threads: int = 1, spins: bool = False
) -> onnxruntime.InferenceSession:
    """Load a graph for running; raise BundleError naming a file that is no graph, or a provider that is not there.

    `spins`: the threads of a run wait for each other awake, for who has the cores to itself.
    """
    provider = device.provider
    options = _options(threads, spins)
    options.graph_optimization_level = LEVELS[provider]
    prepare(provider, device.number)
    if provider == "cpu":
        options.add_session_config_entry("session.use_env_allocators", "1")  # the memory that was prepared
        if _flushes():  # threads of its own would go back to denormal numbers
            options.add_session_config_entry(*FLUSH)
    session = _load(graph, options, device.providers)
    # When a library of CUDA is missing, ONNX Runtime runs on CPU without an error.
    _check_provider(provider, session.get_providers())
    return session


def metadata_of(session: onnxruntime.InferenceSession) -> dict[str, Any]:
    """Return what a graph of our export says of itself, by name."""
    return {key: json.loads(value) for key, value in session.get_modelmeta().custom_metadata_map.items()}


@cache
def prepare(provider: Provider, number: int) -> None:
    """Find a provider's libraries or memory, before its first session; raise BundleError if ONNX Runtime lacks it.

    `number`: of the device.
    """
    _check_version()
    _check_provider(provider, onnxruntime.get_available_providers())
    if provider == "cuda":
        _prepare_cuda(number)
        return
    # All graphs on CPU work in this memory, where each else keeps what its largest run took.
    arena = onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR
    memory = onnxruntime.OrtMemoryInfo("Cpu", arena, 0, onnxruntime.OrtMemType.DEFAULT)
    onnxruntime.create_and_register_allocator(memory, None)


def _prepare_cuda(number: int) -> None:
    """Load CUDA and cuDNN from where pip puts them; raise BundleError for a GPU or a library that is missing.

    ONNX Runtime would run on CPU without an error, for which a packed graph has no kernel.
    """
    check_gpu(number)
    os.environ.setdefault(*FLASH)  # before the first session
    onnxruntime.set_default_logger_severity(ERRORS_ONLY)  # it warns of each session that it has no plugin
    onnxruntime.preload_dlls()
    wanted = Device("cuda", number).providers
    session = onnxruntime.InferenceSession(get_example("mul_1.onnx"), _options(1), providers=wanted)
    _check_provider("cuda", session.get_providers())


def flush_denormals() -> None:
    """Take denormal numbers (below 1e-38) for zero, in this thread and in all that it starts from now on.

    The weights of padded keys in attention pass through denormal numbers, which cost a processor some hundred times as
    much as others, and no answer changes. ONNX Runtime does this for the thread that opens the first graph of a
    process, and for no other: once any graph was opened, a call has no effect.
    """
    options = _options(1)
    options.add_session_config_entry(*FLUSH)
    onnxruntime.InferenceSession(get_example("mul_1.onnx"), options, providers=[NAMES["cpu"]])


def _flushes() -> bool:
    """Whether this thread takes denormal numbers for zero."""
    return bool(np.float32(1e-38) * np.float32(0.1) == 0)


def read_signature(graph: Graph) -> Signature:
    """Read what a graph says of itself; raise BundleError for a file that is no graph."""
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
    """Return a value of a graph's metadata; raise BundleError for a graph that was not written by our export."""
    try:
        return json.loads(metadata[key])
    except (KeyError, ValueError):
        raise BundleError(f"{path}: the graph has no metadata {key!r}; export the bundle again") from None


def _check_version() -> None:
    version = onnxruntime.__version__
    if tuple(map(int, version.split(".")[:2])) < MIN_VERSION:
        least = ".".join(map(str, MIN_VERSION))
        raise BundleError(
            f"ONNX Runtime is {version}, which ignores the lengths of rows in attention or how long threads may wait "
            f"awake, expected {least} or newer; pip install 'onnxruntime>={least}'"
        )


def _check_provider(provider: Provider, found: list[str]) -> None:
    if NAMES[provider] not in found:
        raise BundleError(
            f"ONNX Runtime {onnxruntime.__version__} runs on {', '.join(found)} here, expected {NAMES[provider]}; "
            "install onnxruntime-gpu and the libraries of the extra gpu in place of onnxruntime"
        )


@cache
def find_kernels() -> Path | None:
    """Return the library of our operators; None, with a warning, where it was not compiled or does not load.

    Graphs run without it too, for they define our operators by ONNX's own.
    """
    if not KERNELS.exists():
        logger.warning("%s is not there: int8 takes 1.5 times as long; install a C compiler and run pip again", KERNELS)
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
    options.enable_mem_pattern = False  # a plan for each shape met, kept for ever, of which no two batches share one
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
    session._model_bytes = None  # it would keep them as long as it lives
    return session
