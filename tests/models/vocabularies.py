"""Small tokenizers of transformers' classes, trained on a few words of many scripts.

`nmt_nfkc.xz` is SentencePiece's table of that name (Apache 2.0), which normalizes text for XLM-RoBERTa and CamemBERT.
"""

import json
import lzma
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
import transformers
from tokenizers import AddedToken
from tokenizers.models import BPE, Unigram, WordPiece
from tokenizers.normalizers import BertNormalizer, Precompiled
from tokenizers.pre_tokenizers import BertPreTokenizer, ByteLevel, Metaspace, Sequence, WhitespaceSplit
from tokenizers.trainers import BpeTrainer, UnigramTrainer, WordPieceTrainer
from transformers import PreTrainedTokenizerBase

from models.tokenizer import Tokenizer

FIXTURES = Path(__file__).parents[1] / "fixtures"
WORDS = (
    "the of and to a in is was for on that with as by he she at from this which are have not but it's don't river's "
    "Paris is the capital of France, Berlin that of Germany. walking walked reader unhappily national nationality "
    "Angela Merkel London Clara Miller Google e-mail state-of-the-art U.S. Mr. 1984 3.14 12,000 10% $5 (see below) "
    "le la les des été où garçon très château cœur naïve über müller größe señor niño 今年 上海 公司 カタナ Привет мир "
    'ελλάδα 🙂 one two three! four? five; six: seven … "eight" [nine] {ten} <eleven> a/b c_d #e @f &g *h ~i ^j |k =l +m'
).split()
SHARES = 1 / (np.arange(len(WORDS)) + 5.0)
DRAWN = np.random.default_rng(0).choice(WORDS, (500, 12), p=SHARES / SHARES.sum())
LINES = [" ".join(words) for words in DRAWN.tolist()]
SIZE = 600
ANGLED = ["<s>", "<pad>", "</s>", "<unk>"]
MASK: Any = AddedToken("<mask>", lstrip=True, special=True)


@cache
def table() -> Any:
    return lzma.decompress((FIXTURES / "nmt_nfkc.xz").read_bytes())


@cache
def byte_pairs() -> tuple[dict[str, int], Any]:
    backend = tokenizers.Tokenizer(BPE())
    backend.pre_tokenizer = ByteLevel(add_prefix_space=False)
    trainer = BpeTrainer(
        vocab_size=SIZE, special_tokens=ANGLED, initial_alphabet=ByteLevel.alphabet(), show_progress=False
    )
    backend.train_from_iterator(LINES, trainer)
    model = json.loads(backend.to_str())["model"]
    return model["vocab"] | {"<mask>": len(model["vocab"])}, [(left, right) for left, right in model["merges"]]


@cache
def unigrams() -> list[tuple[str, float]]:
    backend = tokenizers.Tokenizer(Unigram())
    backend.normalizer = Precompiled(table())
    backend.pre_tokenizer = Sequence([WhitespaceSplit(), Metaspace()])
    trainer = UnigramTrainer(vocab_size=SIZE, unk_token="<unk>", special_tokens=["<unk>"], show_progress=False)
    backend.train_from_iterator(LINES, trainer)
    pieces = json.loads(backend.to_str())["model"]["vocab"]
    # Scores whose sums are exact: otherwise the order of additions decides between ".." + "." and "." + "..".
    return [(piece, round(1024 * score) / 1024) for piece, score in pieces if piece != "<unk>"]


@cache
def word_pieces() -> dict[str, int]:
    backend = tokenizers.Tokenizer(WordPiece(unk_token="[UNK]"))
    backend.normalizer = BertNormalizer(lowercase=True)
    backend.pre_tokenizer = BertPreTokenizer()
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    backend.train_from_iterator(LINES, WordPieceTrainer(vocab_size=SIZE, special_tokens=specials, show_progress=False))
    return backend.get_vocab()


def roberta(**settings: Any) -> PreTrainedTokenizerBase:
    vocabulary, merges = byte_pairs()
    return transformers.RobertaTokenizer(vocab=vocabulary, merges=merges, mask_token=MASK, **settings)


def xlm_roberta(**settings: Any) -> PreTrainedTokenizerBase:
    """Entries in the order of fairseq's."""
    vocabulary = [*((token, 0.0) for token in ANGLED), *unigrams(), ("<mask>", 0.0)]
    return transformers.XLMRobertaTokenizer(
        vocab=vocabulary, _spm_precompiled_charsmap=table(), mask_token=MASK, **settings
    )


def camembert(**settings: Any) -> PreTrainedTokenizerBase:
    """Entries in the order of CamemBERT's: those of fairseq that no row holds, then SentencePiece's own."""
    first = ["<s>NOTUSED", "<pad>", "</s>NOTUSED", "<unk>", "<unk>NOTUSED", "<s>", "</s>"]
    vocabulary = [*((token, -100.0 * (token == "<unk>NOTUSED")) for token in first), *unigrams(), ("<mask>", 0.0)]
    return transformers.CamembertTokenizer(vocab=vocabulary, _spm_precompiled_charsmap=table(), **settings)


def distilbert(**settings: Any) -> PreTrainedTokenizerBase:
    return transformers.DistilBertTokenizer(vocab=word_pieces(), **settings)


CLASSES = {"roberta": roberta, "xlm-roberta": xlm_roberta, "camembert": camembert, "distilbert": distilbert}


def save(theirs: PreTrainedTokenizerBase, directory: Path, model_type: str | None = None) -> Path:
    """Write the files of a tokenizer, and a config.json that names a kind of encoder."""
    theirs.save_pretrained(directory)
    if model_type:
        (directory / "config.json").write_text(json.dumps({"model_type": model_type}))
    return directory


def ours(theirs: PreTrainedTokenizerBase, directory: Path) -> Tokenizer:
    """Read what a tokenizer of transformers writes."""
    return Tokenizer.read(save(theirs, directory))
