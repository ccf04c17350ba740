"""The supported families of encoders, and the names that transformers gives to their parts.

All these families compute what models/encoder.py computes. They differ in their names, in the rows of the position and
segment tables that they read, and in the activation of their classifiers. So a family is only data. Sources: the files
`modeling_*.py` and `configuration_*.py` of transformers 5.
"""

from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from models.errors import CheckpointError
from models.task import TaskName

NSP_LABELS = ["isNext", "notNext"]
"""0 = the true next sentence, as in create_pretraining_data.py:130."""
SEQUENCE_TASKS: tuple[Literal["classify", "pair"], ...] = ("classify", "pair")
"""The tasks that a sequence classifier can have."""

Activation = Literal["tanh", "gelu", "relu"]


class Layout(NamedTuple):
    """How a class of transformers lays out one head: its task, and the names of its parts."""

    head: str
    task: TaskName
    names: dict[str, str]
    activation: Activation = "tanh"
    """Between the two layers of a sequence classifier."""

    def reads(self, task: TaskName) -> bool:
        """Whether a head of this layout can have `task`."""
        return self.task == task or (self.head == "classify" and task in SEQUENCE_TASKS)


Classes = dict[str, list[Layout]]
"""The heads of each class, by the part of its name after the family's."""


def classes(masked: Layout, classifier: Layout) -> Classes:
    """Return the classes that every family has."""
    return {
        "Model": [],
        "ForMaskedLM": [masked],
        "ForSequenceClassification": [classifier],
        "ForTokenClassification": [Layout("tag", "tag", {"classifier.": "classifier."})],
        "ForQuestionAnswering": [Layout("qa", "qa", {"classifier.": "qa_outputs."})],
    }


def masked_token(transform: str, norm: str, bias: str) -> Layout:
    return Layout("fill-mask", "fill-mask", {"transform.": transform, "norm.": norm, "bias": bias})


def classifier(first: str, second: str, activation: Activation = "tanh") -> Layout:
    return Layout("classify", "classify", {"pooler.": first, "classifier.": second}, activation)


EMBEDDINGS = {
    "word.": "embeddings.word_embeddings.",
    "position.": "embeddings.position_embeddings.",
    "segment.": "embeddings.token_type_embeddings.",
    "norm.": "embeddings.LayerNorm.",
    "project.": "embeddings_project.",
}
QUERY_KEY_VALUE = ("query.", "key.", "value.")
LAYER = {
    "query.": "attention.self.query.",
    "key.": "attention.self.key.",
    "value.": "attention.self.value.",
    "attention_output.": "attention.output.dense.",
    "attention_norm.": "attention.output.LayerNorm.",
    "intermediate.": "intermediate.dense.",
    "output_norm.": "output.LayerNorm.",
    "output.": "output.dense.",
}


@dataclass(frozen=True)
class Family:
    """The names of a family, and how it differs from BERT."""

    name: str
    models: dict[str, str]
    """Prefixes of its class names, by the `model_type` in config.json."""
    prefix: str
    """Prefix of the encoder's weights."""
    decoder: str
    """Prefix of the decoder of masked tokens, whose weight is the word embedding."""
    heads: Classes
    layers: str = "encoder.layer."
    layer: dict[str, str] = field(default_factory=lambda: LAYER)
    config: dict[str, str] = field(default_factory=dict)
    """Names in config.json of those values of `EncoderConfig` that have another name there."""
    defaults: dict[str, Any] = field(default_factory=dict)
    """Defaults of values that config.json may omit, if they differ from BERT's."""
    fixed: dict[str, Any] = field(default_factory=lambda: {"embedding_size": None})
    """Values that override config.json."""
    after_padding: bool = False
    """Whether the first token of a row has the position `pad_token_id` + 1 instead of 0."""
    segments: Literal["all", "first", "none"] = "all"
    """Which rows of the segment table the family uses."""

    @property
    def architectures(self) -> Classes:
        """The heads of each class, by its full name."""
        return {f"{name}{end}": heads for name in self.models.values() for end, heads in self.heads.items()}

    def first_position(self, values: Mapping[str, Any]) -> int:
        """Return the row of the position table that the first token of a row reads."""
        padding = (self.defaults | known(values)).get("pad_token_id", 0)
        return padding + 1 if self.after_padding and isinstance(padding, int) else 0

    def encoder_values(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the values in config.json under BERT's names, with the number of usable positions."""
        said = self.defaults | known(values)
        said |= {ours: said[theirs] for ours, theirs in self.config.items() if theirs in said} | self.fixed
        positions = said.get("max_position_embeddings")
        if isinstance(positions, int):
            said["max_position_embeddings"] = positions - self.first_position(values)
        return said

    def infer(self, names: Container[str], task: TaskName | None, origin: str) -> str:
        """Return the class whose weights have these `names`; that of the encoder alone if there is no head.

        `task` decides if several classes match. Raise CheckpointError for `origin` if several still match.
        """
        scores = {
            name: self._matches(layouts, names)
            for name, layouts in self.architectures.items()
            if name.startswith(self.first) and (task is None or all(layout.reads(task) for layout in layouts))
        }
        best = [name for name, score in scores.items() if score == max(scores.values())]
        if len(best) > 1:
            raise CheckpointError(
                f"{origin} has no architectures, and its weights fit {' and '.join(best)}; choose with --task of "
                "import, or add architectures to config.json"
            )
        return best[0]

    @property
    def first(self) -> str:
        """Prefix of the names of its oldest classes."""
        return next(iter(self.models.values()))

    def _matches(self, layouts: list[Layout], names: Container[str]) -> int:
        """Return how many linear layers of a class are among `names`, or -1 if one is missing.

        The pooler does not count, because older versions also saved it with heads that do not use it.
        """
        parts = [part for layout in layouts for part in layout.names.values() if part.endswith(".")]
        if any(f"{part}weight" not in names for part in parts):
            return -1
        return sum(not part.startswith(f"{self.prefix}pooler.") for part in parts)


def known(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


MASKED_TOKEN = masked_token(
    "cls.predictions.transform.dense.", "cls.predictions.transform.LayerNorm.", "cls.predictions.bias"
)
NEXT_SENTENCE = Layout("nsp", "pair", {"pooler.": "bert.pooler.dense.", "classifier.": "cls.seq_relationship."})
BERT = Family(
    name="BERT",
    models={"bert": "Bert"},
    prefix="bert.",
    decoder="cls.predictions.decoder.",
    heads={
        "ForPreTraining": [MASKED_TOKEN, NEXT_SENTENCE],
        "ForNextSentencePrediction": [NEXT_SENTENCE],
        **classes(MASKED_TOKEN, classifier("bert.pooler.dense.", "classifier.")),
    },
)
ROBERTA = Family(
    name="RoBERTa",
    models={"roberta": "Roberta", "xlm-roberta": "XLMRoberta", "camembert": "Camembert"},
    prefix="roberta.",
    decoder="lm_head.decoder.",
    heads=classes(
        masked_token("lm_head.dense.", "lm_head.layer_norm.", "lm_head.bias"),
        classifier("classifier.dense.", "classifier.out_proj."),
    ),
    defaults={"pad_token_id": 1, "max_position_embeddings": 512},
    fixed={"embedding_size": None, "type_vocab_size": 2},
    after_padding=True,
    segments="first",
)
ELECTRA = Family(
    name="ELECTRA",
    models={"electra": "Electra"},
    prefix="electra.",
    decoder="generator_lm_head.",
    heads=classes(
        masked_token("generator_predictions.dense.", "generator_predictions.LayerNorm.", "generator_lm_head.bias"),
        classifier("classifier.dense.", "classifier.out_proj.", "gelu"),
    ),
    defaults={"embedding_size": 128, "hidden_size": 256, "num_attention_heads": 4, "intermediate_size": 1024},
    fixed={},
)
DISTILBERT = Family(
    name="DistilBERT",
    models={"distilbert": "DistilBert"},
    prefix="distilbert.",
    decoder="vocab_projector.",
    heads=classes(
        masked_token("vocab_transform.", "vocab_layer_norm.", "vocab_projector.bias"),
        classifier("pre_classifier.", "classifier.", "relu"),
    ),
    layers="transformer.layer.",
    layer={
        "query.": "attention.q_lin.",
        "key.": "attention.k_lin.",
        "value.": "attention.v_lin.",
        "attention_output.": "attention.out_lin.",
        "attention_norm.": "sa_layer_norm.",
        "intermediate.": "ffn.lin1.",
        "output_norm.": "output_layer_norm.",
        "output.": "ffn.lin2.",
    },
    config={
        "hidden_size": "dim",
        "num_hidden_layers": "n_layers",
        "num_attention_heads": "n_heads",
        "intermediate_size": "hidden_dim",
        "hidden_act": "activation",
        "hidden_dropout_prob": "dropout",
        "attention_probs_dropout_prob": "attention_dropout",
    },
    defaults={"num_hidden_layers": 6},
    fixed={"embedding_size": None, "type_vocab_size": 2, "layer_norm_eps": 1e-12},
    segments="none",
)
FAMILIES = (BERT, ROBERTA, ELECTRA, DISTILBERT)

RELATIVE = "its attention adds a learned bias for the distance of tokens, which ours does not"
DISENTANGLED = "its attention adds terms for the distance of tokens (disentangled attention), which ours does not"
DECODER = "it is a decoder, in which a token sees only those before it"
BOTH = "it generates text with an encoder and a decoder"
BEFORE = "it normalizes before each part of a layer, and ours after it"
SPARSE = "its tokens attend to some of the others only, and ours to all"
REFUSED = {
    "albert": "its layers share one set of weights, and its usual GELU is another one (gelu_new)",
    "mpnet": RELATIVE,
    "deberta": DISENTANGLED,
    "deberta-v2": DISENTANGLED,
    "modernbert": "it has rotary positions, gated feed-forward layers without biases, and local attention",
    "nomic_bert": "it has rotary positions and gated feed-forward layers without biases",
    "eurobert": "it has rotary positions and gated feed-forward layers without biases",
    "roformer": "it has rotary positions, and ours are learned",
    "esm": "it has rotary positions and normalizes before each part of a layer",
    "xlnet": "it has relative positions and a memory of earlier segments",
    "funnel": "its layers shorten the row, and its attention depends on the distance of tokens",
    "xlm": "it adds an embedding of the language to each token",
    "mobilebert": "its layers have bottlenecks, and no LayerNorm",
    "squeezebert": "its products are grouped convolutions",
    "convbert": "a part of its attention is a convolution",
    "fnet": "it mixes tokens with a Fourier transform, not with attention",
    "megatron-bert": BEFORE,
    "roberta-prelayernorm": BEFORE,
    "xlm-roberta-xl": BEFORE,
    "xmod": "it has adapters of its own for each language",
    "big_bird": SPARSE,
    "longformer": SPARSE,
    "layoutlm": "it reads the places of words on a page beside the text",
    "luke": "it reads entities beside the text",
    **dict.fromkeys(("t5", "mt5", "umt5", "bart", "mbart", "pegasus", "marian", "encoder-decoder"), BOTH),
    **dict.fromkeys(("gpt2", "gpt_neo", "gpt_neox", "openai-gpt", "gptj", "opt", "bloom", "ctrl"), DECODER),
    **dict.fromkeys(("llama", "mistral", "gemma", "gemma2", "gemma3_text", "phi", "phi3", "qwen2", "qwen3"), DECODER),
}
"""Why a `model_type` is not supported."""


def family_of(values: Mapping[str, Any], origin: str) -> Family:
    """Return the family of a config.json, BERT if it names none; raise CheckpointError for an unsupported one."""
    model, named = values.get("model_type"), architecture_in(values) or ""
    for family in FAMILIES:
        if model in family.models or (model is None and named in family.architectures):
            return family
    if model is None:
        return BERT
    reason = REFUSED.get(str(model))
    supported = ", ".join(model_type for family in FAMILIES for model_type in family.models)
    if reason:
        raise CheckpointError(
            f"{origin}: model_type {model!r} is not supported, since {reason}; pass one of {supported}"
        )
    raise CheckpointError(f"{origin}: model_type is {model!r}, expected one of {supported}; pass such a checkpoint")


def architecture_in(values: Mapping[str, Any]) -> str | None:
    """Return the class in a config.json, or None."""
    found = values.get("architectures") or None
    return None if found is None else str(found[0] if isinstance(found, list) else found)


def layouts_of(architecture: str, family: Family, origin: str) -> list[Layout]:
    """Return the heads of a class; raise CheckpointError for a class that is not supported."""
    layouts = family.architectures.get(architecture)
    if layouts is None:
        expected = ", ".join(name for name in family.architectures if name.startswith(family.first))
        raise CheckpointError(
            f"{origin}: architecture is {architecture}, expected one of {expected}; pass one of these"
        )
    return layouts
