"""Small random networks of every family and class that is read, saved as transformers saves them."""

from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import PreTrainedModel

from models.tokenizer import Tokenizer

COMMON = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 66,
    "initializer_range": 0.3,
}
DISTIL = {
    "dim": 32,
    "n_layers": 2,
    "n_heads": 2,
    "hidden_dim": 64,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
}
ROBERTA = COMMON | {"type_vocab_size": 1, "layer_norm_eps": 1e-5}
CONFIGS: dict[str, dict[str, Any]] = {
    "Bert": COMMON,
    "DistilBert": DISTIL,
    "Electra": COMMON | {"embedding_size": 32},
    "small Electra": COMMON | {"embedding_size": 16},
    "Roberta": ROBERTA,
    "XLMRoberta": ROBERTA,
    "Camembert": ROBERTA,
}
"""What the classes of each family are made with, by what their names begin with; ELECTRA is of two kinds."""
CLASSES = ["ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering", "ForMaskedLM"]
HEADS = dict(zip(CLASSES, ["classify", "tag", "qa", "fill-mask"], strict=True))
LABELS = {"ForSequenceClassification": 3, "ForTokenClassification": 5}


def random_model(family: str, end: str, tokenizer: Tokenizer, **changes: Any) -> PreTrainedModel:
    """Random weights, the same in each run; biases and LayerNorms are off their start, where one would not show."""
    name = family.split()[-1]
    values = CONFIGS[family] | {"vocab_size": tokenizer.vocab_size + 3, "num_labels": LABELS.get(end, 2)} | changes
    torch.manual_seed(0)
    model: PreTrainedModel = getattr(transformers, f"{name}{end}")(getattr(transformers, f"{name}Config")(**values))
    for parameter in model.parameters():
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, mean=float(parameter.detach().mean()), std=0.2)
    return torch.nn.Module.eval(model)


def save(family: str, end: str, tokenizer: Tokenizer, directory: Path, **changes: Any) -> PreTrainedModel:
    """Write a random network, and beside it BERT's tokenizer: ids are all that counts here."""
    model = random_model(family, end, tokenizer, **changes)
    model.save_pretrained(directory)
    tokenizer.write(directory)
    return model


def batch(model: PreTrainedModel) -> dict[str, Tensor]:
    """Three rows of ordinary tokens, two of them padded, in two segments."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(5, model.config.vocab_size - 3, (3, 20), generator=generator)
    mask = torch.ones_like(ids)
    mask[0, 11:] = 0
    mask[2, 4:] = 0
    ids[mask == 0] = model.config.pad_token_id
    segments = (torch.arange(20) > 7).long().expand(3, 20)
    return {"input_ids": ids, "token_type_ids": segments, "attention_mask": mask}


@torch.no_grad()
def logits_of(model: PreTrainedModel, inputs: dict[str, Tensor]) -> Tensor:
    """Logits as a head has them: [B, labels] of a classifier, [B, S, labels] of others; start and end are one."""
    if not type(model).__name__.startswith(("Bert", "Electra")):
        inputs = {name: tensor for name, tensor in inputs.items() if name != "token_type_ids"}
    outputs = model(**inputs)
    if "start_logits" in outputs:
        return torch.stack([outputs.start_logits, outputs.end_logits], -1)
    found: Tensor = outputs.logits
    return found
