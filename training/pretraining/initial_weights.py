"""The initial weights of pretraining: from a base, from word counts, from a teacher, or random."""

from pathlib import Path

import numpy as np
import torch
from torch import nn

from models.checkpoint import Checkpoint, Head
from models.config import EncoderConfig
from models.encoder import Encoder
from models.heads import MaskedTokenHead, build_head
from models.tokenizer import Tokenizer
from training.errors import RecipeError
from training.pretraining.distillation import Teacher
from training.pretraining.next_sentence import longest_row
from training.pretraining.pretrain_recipe import PretrainRecipe
from training.pretraining.word_vectors import embed_words
from training.run.start_from import note_length, read_base, set_dropout
from training.text.corpus import TOKENIZER, Corpus


def start(recipe: PretrainRecipe) -> Checkpoint:
    """Return the base with its heads and those of pretraining, fresh if it lacks them; or random weights."""
    corpus = Corpus(Path(recipe.corpus))
    if recipe.base:
        checkpoint = read_base(Path(recipe.base))
    else:
        tokenizer = Tokenizer.read(Path(recipe.tokenizer or Path(recipe.corpus) / TOKENIZER))
        config = EncoderConfig(
            vocab_size=tokenizer.vocab_size,
            hidden_size=recipe.width,
            num_hidden_layers=recipe.layers,
            num_attention_heads=recipe.attention_heads,
            intermediate_size=4 * recipe.width,
            hidden_dropout_prob=recipe.dropout,
            attention_probs_dropout_prob=recipe.dropout,
            pad_token_id=tokenizer.pad_id,
            trained_length=longest_row(corpus, recipe.longest, recipe.nsp),
        )
        checkpoint = Checkpoint(config, Encoder(config), tokenizer)
    corpus.check_vocabulary(checkpoint.tokenizer)
    embedding = checkpoint.encoder.embeddings.word
    for name, spec in recipe.specs.items():
        if name not in checkpoint.heads:
            module = build_head(spec.task, len(spec.labels), checkpoint.config, embedding)
            if spec.task == "fill-mask":
                set_unigram_bias(module, corpus)
            checkpoint.heads[name] = Head(spec, module)
            checkpoint.fresh.add(name)
    set_dropout(checkpoint, recipe.dropout, recipe.dropout)
    if recipe.longest > checkpoint.config.max_position_embeddings:
        raise RecipeError(
            f"max_length is {recipe.longest}, but the encoder has {checkpoint.config.max_position_embeddings} "
            "positions; lower max_length"
        )
    note_length(checkpoint, longest_row(corpus, recipe.longest, recipe.nsp))
    return checkpoint


@torch.no_grad()
def set_unigram_bias(head: nn.Module, corpus: Corpus) -> None:
    """Set the bias to the frequencies of the corpus. From zero, it takes ten thousand steps to get there; until then,
    the rare rows of the tied embedding are all pushed in one direction."""
    assert isinstance(head, MaskedTokenHead)
    counts = corpus.token_counts(len(head.bias)) + 1.0  # a missing token may still occur later
    log_shares = np.log(counts / counts.sum())
    head.bias.copy_(torch.from_numpy(log_shares - log_shares.mean()))


def inform(encoder: Encoder, recipe: PretrainRecipe, corpus: Corpus, teacher: Teacher | None) -> None:
    """Set random weights from the teacher, or the embedding from word counts, before the first step."""
    if teacher:
        teacher.hand_down(encoder)
    elif recipe.word_vectors:
        embed_words(encoder, corpus)
