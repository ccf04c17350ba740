"""Heads as models of the Open Inference Protocol: their names, inputs and outputs, configuration and statistics."""

from typing import Any

from pydantic_core import to_json

from models.task import TaskName
from models.task_registry import TASKS
from service.errors import NotFound
from service.heads import Head, Heads
from service.inference import NESTED
from service.metrics import STAGES, Metrics
from service.tensors import Column, View

PLATFORM = "bertheads"
EXTENSIONS = ["binary_tensor_data", "model_repository", "parameters"]
OUTPUTS: dict[TaskName, tuple[str, ...]] = {
    "classify": ("label", "score", "scores", "json"),
    "pair": ("label", "score", "scores", "json"),
    "fill-mask": ("token", "score", "json"),
    "tag": ("json",),
    "qa": ("answer", "score", "start", "end", "json"),
}
DATATYPES = {
    **dict.fromkeys(("label", "token", "answer", "json"), "BYTES"),
    **dict.fromkeys(("score", "scores"), "FP32"),
    **dict.fromkeys(("start", "end"), "INT64"),
}
"""The datatype of each output."""
NOTHING: dict[str, Any] = {"BYTES": "", "FP32": 0.0, "INT64": 0}
"""Values by datatype for an answer that is an empty list."""
KEYS = {"token": "token_str"}
"""Outputs whose key in an answer has another name."""
CONFIG_TYPES = {"BYTES": "TYPE_STRING", "FP32": "TYPE_FP32", "INT64": "TYPE_INT64"}


class ServerMetadata(View):
    """The server."""

    name: str
    """bertheads."""
    version: str
    """Its version."""
    extensions: list[str]
    """Extensions of the protocol that it supports."""


class ServerLive(View):
    """The answer of a process that is alive."""

    live: bool
    """Always true; a process that is not live is an error."""


class ServerReady(View):
    """The answer of a worker that is ready."""

    ready: bool
    """Always true; a worker that is not ready is an error."""


class TensorMetadata(View):
    """An input or an output."""

    name: str
    """Its name in requests."""
    datatype: str
    """BYTES for texts, FP32 or INT64."""
    shape: list[int]
    """-1 means any number of items."""


class ModelMetadata(View):
    """A head."""

    name: str
    """The name in the path."""
    versions: list[str]
    """The version of its bundle."""
    platform: str
    """bertheads."""
    inputs: list[TensorMetadata]
    """All of them are required."""
    outputs: list[TensorMetadata]
    """All except `scores` are returned by default."""
    parameters: dict[str, Any]
    """Its task, and the labels in the order of `scores`."""


class ModelReady(View):
    """A head that is ready."""

    name: str
    """The name in the path."""
    ready: bool
    """Always true; a head that is not ready is an error."""


def find_model(heads: Heads, alias: str | None, name: str, version: str | None = None) -> Head:
    """Return the head with a name; `alias` is another name of the first head.

    Raises NotFound, which names what exists, if there is no such head or if `version` is not that of its bundle.
    """
    is_alias = name == alias and name not in heads.by_name
    head = next(iter(heads.by_name.values())) if is_alias else heads.get(name)
    served = head.bundle.manifest.version
    if version not in (None, served):
        raise NotFound(f"there is no version {str(version)[:80]!r} of {name}; there is {served}", field="version")
    return head


def input_names(task: TaskName) -> list[str]:
    """Return the inputs of a model: the fields of the task's input, or `text`."""
    return list(getattr(TASKS[task].inputs, "model_fields", ("text",)))


def output_shape(output: str, head: Head, shape: list[int]) -> list[int]:
    """Return the shape of an output; `shape` is that of the inputs."""
    return [shape[0], len(head.spec.labels)] if output == "scores" else shape


def metadata(name: str, head: Head) -> dict[str, Any]:
    """Return the ModelMetadata of a head."""
    task = head.spec.task
    inputs = [{"name": each, "datatype": "BYTES", "shape": [-1]} for each in input_names(task)]
    outputs = [
        {"name": each, "datatype": DATATYPES[each], "shape": output_shape(each, head, [-1])} for each in OUTPUTS[task]
    ]
    parameters = {"task": task, "labels": head.spec.labels}
    versions = [head.bundle.manifest.version]
    return {
        "name": name,
        "versions": versions,
        "platform": PLATFORM,
        "inputs": inputs,
        "outputs": outputs,
        "parameters": parameters,
    }


def config(name: str, head: Head) -> dict[str, Any]:
    """Return the description of a head in the format of Triton's ModelConfig (model_config.proto)."""
    about = metadata(name, head)
    return {
        "name": name,
        "platform": PLATFORM,
        "backend": PLATFORM,
        "max_batch_size": 0,
        "input": list(map(_config_tensor, about["inputs"])),
        "output": list(map(_config_tensor, about["outputs"])),
    }


def _config_tensor(tensor: dict[str, Any]) -> dict[str, Any]:
    return {"name": tensor["name"], "data_type": CONFIG_TYPES[tensor["datatype"]], "dims": tensor["shape"]}


def statistics(name: str, head: Head, metrics: Metrics) -> dict[str, Any]:
    """Return this worker's statistics of a head, in the format of Triton's extension_statistics.md."""
    values = _values(head.name, metrics)

    def spent(*stages: str) -> dict[str, int]:
        seconds = sum(values["bertheads_stage_seconds_sum", stage] for stage in stages)
        return {"count": int(values["bertheads_stage_seconds_count", stages[0]]), "ns": round(seconds * 1e9)}

    return {
        "name": name,
        "version": head.bundle.manifest.version,
        "inference_count": int(values["bertheads_inputs_total", ""]),
        "inference_stats": {
            "success": spent(*STAGES),
            "queue": spent("queue"),
            "compute_input": spent("tokenize"),
            "compute_infer": spent("encode"),
            "compute_output": spent("decode"),
        },
        "batch_stats": [],
    }


def _values(head: str, metrics: Metrics) -> dict[tuple[str, str], float]:
    """Return the metric values of a head by name and stage, without histogram buckets."""
    families = [family for metric in (metrics.inputs, metrics.stage) for family in metric.collect()]
    samples = [sample for family in families for sample in family.samples if sample.labels.get("head") == head]
    return {(s.name, s.labels.get("stage", "")): s.value for s in samples if "le" not in s.labels}


def columns(head: Head, outputs: list[str], answers: list[Any], shape: list[int]) -> list[Column]:
    """Return the values of each output for all answers, one per input; for `scores`, answers come from EveryLabel."""
    rows, labeled = answers, []
    if "scores" in outputs:
        rows, labeled = [answer for answer, _ in answers], [labels for _, labels in answers]
    found = []
    for name in outputs:
        values = _scores(head, labeled) if name == "scores" else [_value(name, head, answer) for answer in rows]
        found.append(Column(name, DATATYPES[name], output_shape(name, head, shape), values))
    return found


def _scores(head: Head, labeled: list[Any]) -> list[float]:
    """Return one flat list: for each input, the scores of the head's labels in their order."""
    by_label = [{each["label"]: each["score"] for each in labels} for labels in labeled]
    return [scores[label] for scores in by_label for label in head.spec.labels]


def _value(output: str, head: Head, answer: Any) -> Any:
    """Return an output's value for one answer; of a list, the first element counts (that of the first mask)."""
    if output == "json":
        return to_json([answer] if head.spec.task in NESTED else answer).decode()
    while isinstance(answer, list):
        answer = answer[0] if answer else {}
    return answer.get(KEYS.get(output, output), NOTHING[DATATYPES[output]])
