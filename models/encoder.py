"""The BERT encoder in PyTorch: learned positions, segments, post-LayerNorm, erf GELU (Devlin et al., 2018).

Numerically equal to the encoder of transformers' `BertModel` and of the other families in models/architectures.py.
Query, key and value are one matrix here, which makes four matrix products per layer instead of six.
`models.checkpoint` translates the names.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.config import EncoderConfig


class Embeddings(nn.Module):
    """Word + segment + position, LayerNorm, dropout; then a projection if the tables have another width (ELECTRA)."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        width = config.embedding_width
        self.word = nn.Embedding(config.vocab_size, width)
        self.position = nn.Embedding(config.max_position_embeddings, width)
        self.segment = nn.Embedding(config.type_vocab_size, width)
        self.norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.project = nn.Identity() if width == config.hidden_size else nn.Linear(width, config.hidden_size)

    def forward(self, input_ids: Tensor, token_type_ids: Tensor) -> Tensor:
        columns = torch.arange(input_ids.shape[1], device=input_ids.device)
        summed = self.word(input_ids) + self.segment(token_type_ids) + self.position(columns)
        projected: Tensor = self.project(self.dropout(self.norm(summed)))
        return projected


class Layer(nn.Module):
    """Self-attention and feed-forward, each with a residual and a LayerNorm after it."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.heads = config.num_attention_heads
        self.attention_dropout = config.attention_probs_dropout_prob
        self.query_key_value = nn.Linear(width, 3 * width)
        self.attention_output = nn.Linear(width, width)
        self.attention_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.intermediate = nn.Linear(width, config.intermediate_size)
        self.output = nn.Linear(config.intermediate_size, width)
        self.output_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, hidden: Tensor, bias: Tensor | None) -> Tensor:
        attended = self.attention_norm(hidden + self.dropout(self.attention_output(self.attend(hidden, bias))))
        expanded = F.gelu(self.intermediate(attended))
        normed: Tensor = self.output_norm(attended + self.dropout(self.output(expanded)))
        return normed

    def attend(self, hidden: Tensor, bias: Tensor | None) -> Tensor:
        rows, length, width = hidden.shape
        projected = self.query_key_value(hidden).view(rows, length, 3, self.heads, width // self.heads)
        query, key, value = projected.permute(2, 0, 3, 1, 4)  # each (rows, heads, length, head width)
        dropout = self.attention_dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=bias, dropout_p=dropout)
        return mixed.transpose(1, 2).reshape(rows, length, width)


class Encoder(nn.Module):
    """Map token ids to vectors.

    Shapes: `input_ids`, `token_type_ids`, `attention_mask` [B, S] int64 (mask 1 = token, 0 = padding). The result is
    [B, S, H], or [N, H] if N flat `positions` (row * S + column) are given.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.embeddings = Embeddings(config)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.apply(lambda module: initialize(module, config.initializer_range))

    def forward(
        self,
        input_ids: Tensor,
        token_type_ids: Tensor,
        attention_mask: Tensor | None = None,
        positions: Tensor | None = None,
    ) -> Tensor:
        hidden: Tensor = self.embeddings(input_ids, token_type_ids)
        bias = None if attention_mask is None else padding_bias(attention_mask, hidden.dtype)
        for layer in self.layers:
            hidden = layer(hidden, bias)
        return hidden if positions is None else hidden.flatten(0, 1)[positions]


def padding_bias(attention_mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Turn a [B, S] mask into an additive bias [B, 1, 1, S]; finite, so that a row of only padding gives no NaN."""
    return (1.0 - attention_mask[:, None, None, :].to(dtype)) * torch.finfo(dtype).min


def initialize(module: nn.Module, deviation: float) -> None:
    """Initialize weights as BERT does: normal with standard deviation `deviation`, biases 0, LayerNorm the identity."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=deviation)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
