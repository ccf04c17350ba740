"""Pruning: makes a smaller encoder from a larger one without training, by least squares.

The first layer, the last, and evenly spaced ones between them are kept. Each layer keeps the attention heads and the
neurons whose contributions vary most, as in structured pruning (Muralidharan et al., 2024). Hidden states keep given
directions. Then, layer by layer, every product is fitted on a sample of text: from the values of the smaller encoder to
those of the larger one. So each fit compensates for earlier errors and dropped layers (ThiNet, Luo et al., 2017).
"""

from dataclasses import dataclass
from typing import NamedTuple, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.config import EncoderConfig
from models.encoder import Embeddings, Encoder, Layer, padding_bias
from training.errors import RecipeError
from training.pretraining.batches import Batch

DAMPING = 1e-3
"""Damping of least squares, relative to the mean square of the inputs."""


class Activations(NamedTuple):
    """Values in a layer: [B, S, H], but [B, S, heads × head width] for heads and [B, S, I] for neurons."""

    mixed: Tensor
    attended_sum: Tensor
    attended: Tensor
    before: Tensor
    """Inputs of the neurons, before GELU."""
    neurons: Tensor
    output_sum: Tensor
    hidden: Tensor


@torch.no_grad()
def prune(teacher: Encoder, student: Encoder, directions: Tensor, batch: Batch) -> None:
    """Set a fresh `student` to the pruned weights of `teacher`, fitted on the few thousand tokens of `batch`.

    `directions` [H, width of the student] are orthonormal and project the teacher's hidden states to the student's.
    Raise RecipeError for a student that exceeds its teacher in any size, or has another width per attention head.
    """
    check_sizes(teacher.config, student.config)
    bias = padding_bias(batch.attention_mask, directions.dtype)
    Pruner(directions, batch.attention_mask.bool(), bias).fit(teacher, student.eval(), batch)
    student.train()


def check_sizes(teacher: EncoderConfig, student: EncoderConfig) -> None:
    check_size("layers", teacher.num_hidden_layers, student.num_hidden_layers)
    check_size("width", teacher.hidden_size, student.hidden_size)
    check_size("feed-forward width", teacher.intermediate_size, student.intermediate_size)
    if teacher.embedding_width != teacher.hidden_size:
        raise RecipeError(
            f"the embeddings of the teacher are {teacher.embedding_width} wide, expected the {teacher.hidden_size} of "
            "its hidden states; name another teacher, or start the student from a base"
        )
    size = teacher.hidden_size // teacher.num_attention_heads
    heads = max(1, student.hidden_size // size)
    if student.hidden_size != size * student.num_attention_heads:
        raise RecipeError(
            f"attention_heads is {student.num_attention_heads} at a width of {student.hidden_size}, expected heads of "
            f"{size} as the teacher's; set attention_heads = {heads}, and width = {heads * size}"
        )


def check_size(name: str, theirs: int, mine: int) -> None:
    """Raise RecipeError if the student is larger than its teacher in this size."""
    if mine > theirs:
        raise RecipeError(
            f"{name} of the student: {mine}, expected no more than the {theirs} of its teacher; lower it, or name "
            "a larger teacher"
        )


@dataclass(frozen=True)
class Pruner:
    """The kept directions of hidden states, and the text that products are fitted on."""

    directions: Tensor
    tokens: Tensor
    """Which of [B, S] are not padding."""
    bias: Tensor
    """The attention mask for it."""

    def fit(self, teacher: Encoder, student: Encoder, batch: Batch) -> None:
        theirs = teacher.embeddings(batch.input_ids, batch.token_type_ids)
        mine = self.fit_embeddings(student.embeddings, teacher.embeddings, theirs, batch)
        layers = [cast(Layer, layer) for layer in teacher.layers]
        kept = np.linspace(0, len(layers) - 1, len(student.layers)).astype(int).tolist()
        for layer, first, following in zip(student.layers, kept, [*kept[1:], len(layers)], strict=True):
            source, *left_out = layers[first:following]
            found = last = activations(source, theirs, self.bias)
            for each in left_out:
                last = activations(each, last.hidden, self.bias)
            attended = self.fit_attention(cast(Layer, layer), source, mine, theirs, found)
            mine = self.fit_feed_forward(cast(Layer, layer), source, attended, found, last)
            theirs = last.hidden

    def fit_embeddings(self, mine: Embeddings, source: Embeddings, theirs: Tensor, batch: Batch) -> Tensor:
        """Fit the tables and their LayerNorm to a `source` with the values `theirs`; return their output."""
        pairs = [(source.word, mine.word), (source.position, mine.position), (source.segment, mine.segment)]
        for large, small in pairs:
            rows = min(large.num_embeddings, small.num_embeddings)
            small.weight[:rows] = large.weight[:rows] @ self.directions
        normed = mine(batch.input_ids, batch.token_type_ids)  # while the LayerNorm is still the identity
        return self.fit_norm(mine.norm, normed, theirs)

    def fit_attention(self, layer: Layer, source: Layer, mine: Tensor, theirs: Tensor, found: Activations) -> Tensor:
        """Fit attention to that of `source`; return the student's hidden states after it."""
        width = found.mixed.shape[-1]
        columns = self.foremost(found.mixed, source.attention_output, source.heads, layer.heads)
        chosen = torch.cat([columns + offset for offset in (0, width, 2 * width)])  # queries, keys and values
        self.fit_product(layer.query_key_value, mine, source.query_key_value(theirs)[..., chosen])
        mixed = layer.attend(mine, self.bias)
        added = self.fit_product(layer.attention_output, mixed, found.attended_sum @ self.directions - mine)
        return self.fit_norm(layer.attention_norm, mine + added, found.attended)

    def fit_feed_forward(
        self, layer: Layer, source: Layer, attended: Tensor, found: Activations, last: Activations
    ) -> Tensor:
        """Fit neurons to those of `source`, and their product to the `last` layer that this one replaces."""
        all_of_them = source.intermediate.out_features
        chosen = self.foremost(found.neurons, source.output, all_of_them, layer.intermediate.out_features)
        neurons = F.gelu(self.fit_product(layer.intermediate, attended, found.before[..., chosen]))
        added = self.fit_product(layer.output, neurons, last.output_sum @ self.directions - attended)
        return self.fit_norm(layer.output_norm, attended + added, last.hidden)

    def foremost(self, values: Tensor, reader: nn.Linear, groups: int, count: int) -> Tensor:
        """Return the columns of the `count` groups whose contributions through `reader` vary most, in order."""
        centered = values[self.tokens] - values[self.tokens].mean(0)
        size = centered.shape[1] // groups
        covariance = (centered.T @ centered).view(groups, size, groups, size)
        products = (reader.weight.T @ reader.weight).view(groups, size, groups, size)
        variances = torch.einsum("gigj,gigj->g", covariance, products)
        chosen = variances.topk(count).indices.sort().values
        return torch.arange(groups * size, device=values.device).view(groups, size)[chosen].flatten()

    def fit_product(self, linear: nn.Linear, inputs: Tensor, targets: Tensor) -> Tensor:
        """Fit weight and bias by damped least squares; return their output for `inputs`."""
        x, y = inputs[self.tokens].double(), targets[self.tokens].double()
        x_mean, y_mean = x.mean(0), y.mean(0)
        products = (x - x_mean).T @ (x - x_mean)
        products.diagonal().add_(DAMPING * products.diagonal().mean())
        weight = torch.linalg.solve(products, (x - x_mean).T @ (y - y_mean))
        linear.weight.copy_(weight.T)
        linear.bias.copy_(y_mean - x_mean @ weight)
        fitted: Tensor = linear(inputs)
        return fitted

    def fit_norm(self, norm: nn.LayerNorm, values: Tensor, theirs: Tensor) -> Tensor:
        """Fit gain and bias of a LayerNorm to hidden states of the teacher; return its output for `values`."""
        normed = F.layer_norm(values, norm.normalized_shape, eps=norm.eps)
        x, y = normed[self.tokens], theirs[self.tokens] @ self.directions
        x_mean, y_mean = x.mean(0), y.mean(0)
        norm.weight.copy_(((x - x_mean) * (y - y_mean)).sum(0) / (x - x_mean).square().sum(0))
        norm.bias.copy_(y_mean - norm.weight * x_mean)
        return normed * norm.weight + norm.bias


def activations(layer: Layer, hidden: Tensor, bias: Tensor) -> Activations:
    mixed = layer.attend(hidden, bias)
    attended_sum = hidden + layer.attention_output(mixed)
    attended = layer.attention_norm(attended_sum)
    before = layer.intermediate(attended)
    neurons = F.gelu(before)
    output_sum = attended + layer.output(neurons)
    return Activations(mixed, attended_sum, attended, before, neurons, output_sum, layer.output_norm(output_sum))
