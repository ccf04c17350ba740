"""Reads the files of a tokenizer like transformers: vocab.txt or tokenizer.json, and the settings in other files.

Files with which transformers would tokenize differently from us are refused. Only one thing is decided here: if no file
says whether a vocabulary is cased, its entries decide, and `TokenizerFiles.notes` reports that.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

from models import byte_level, unigram
from models.config import read_json
from models.errors import CheckpointError
from models.letter_case import letter_case
from models.special_tokens import ANGLED, BRACKETED, OF_BERT, OWN, content, make_rows, rows_of

SETTINGS, MODEL_SETTINGS, SPECIAL_TOKENS = "tokenizer_config.json", "config.json", "special_tokens_map.json"
BERT = ("BertTokenizer", "DistilBertTokenizer", "ElectraTokenizer")
"""Classes that follow the settings instead of the rules in tokenizer.json; names with the suffix "Fast" too."""
ROBERTA = ("RobertaTokenizer",)
FAIRSEQ = ("XLMRobertaTokenizer", "CamembertTokenizer")
GENERIC = ("PreTrainedTokenizer", "TokenizersBackend")
"""Classes that use only tokenizer.json."""
OF_MODELS = {
    "bert": "BertTokenizer",
    "distilbert": "DistilBertTokenizer",
    "electra": "ElectraTokenizer",
    "roberta": "RobertaTokenizer",
    "xlm-roberta": "XLMRobertaTokenizer",
    "camembert": "CamembertTokenizer",
}
"""The class that transformers uses if no file names one, by model_type."""
REASONS = {
    "Albert": "its SentencePiece rules rewrite quotes, case and accents",
    "MPNet": "its rows mix the special tokens of RoBERTa with the pieces of BERT",
    "DebertaV2": "its encoder is not BERT's either",
    "Deberta": "its encoder is not BERT's either",
    "BertJapanese": "it needs MeCab to find words",
    "Bertweet": "it exists in Python only",
    "Phobert": "it exists in Python only",
}
"""Why a class is not supported, by the prefix of its name."""
NEUTRAL: dict[str, object] = {
    "word_tokenizer_type": "basic",
    "subword_tokenizer_type": "wordpiece",
    "do_word_tokenize": True,
    "do_subword_tokenize": True,
    "do_basic_tokenize": True,
    "never_split": [],
}
"""Settings that only some classes of transformers follow, with the values that have no effect."""
KINDS = {"added_tokens_decoder": dict, "model_input_names": list}
RULES = {
    "do_lower_case": "lowercase",
    "tokenize_chinese_chars": "handle_chinese_chars",
    "strip_accents": "strip_accents",
}
"""Settings, and their names in the normalizer of tokenizer.json."""
MODEL = {"unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100}
"""Values that transformers uses for the model, even if tokenizer.json has others."""
ROWS = make_rows("[CLS]", "[SEP]", OF_BERT)
AGREE = "make the two agree, as when the checkpoint was trained"

Values = dict[str, Any]


class TokenizerFiles:
    """The tokenizer files of a directory; raises CheckpointError, which names the file, the value and the remedy."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.notes: list[str] = []
        """Sentences about decisions that the files left open."""
        self.settings, self.model = self._json(SETTINGS), self._json(MODEL_SETTINGS)
        for name, values in ((SETTINGS, self.settings), (MODEL_SETTINGS, self.model)):
            _check_class(directory / name, values)
        _check_kinds(directory / SETTINGS, self.settings)
        for name in (SETTINGS, SPECIAL_TOKENS):
            self._check_specials(directory / name, self._json(name))

    @property
    def tokenizer_class(self) -> str | None:
        """The class that transformers would use, without "Fast"; None if no file names it."""
        named = self.settings.get("tokenizer_class") or self.model.get("tokenizer_class")
        return named.removesuffix("Fast") if named else OF_MODELS.get(str(self.model.get("model_type")))

    @property
    def is_generic(self) -> bool:
        """Whether transformers uses only tokenizer.json."""
        return self.tokenizer_class in GENERIC

    @property
    def has_segments(self) -> bool:
        """Whether all versions of transformers give the two texts of a pair different segments."""
        names = self.settings.get("model_input_names")
        return not self.is_generic if names is None else "token_type_ids" in names

    @property
    def max_length(self) -> int | None:
        """Maximum tokens of a row in transformers; None if no file says it."""
        found = self.settings.get("model_max_length")
        return found if isinstance(found, int) and found > 0 else None

    @property
    def vocabulary(self) -> str:
        """The name of the vocabulary file that is used if there is no tokenizer.json."""
        named = self.tokenizer_class in ROBERTA or (self.directory / byte_level.VOCABULARY).exists()
        return byte_level.VOCABULARY if named else "vocab.txt"

    def from_vocabulary(self) -> tokenizers.Tokenizer:
        """Build a tokenizer from vocab.txt, or from vocab.json and merges.txt, and the settings."""
        path = self.directory / self.vocabulary
        if self.vocabulary == byte_level.VOCABULARY:
            return self._from_merges()
        for model in self.directory.glob("*.model"):
            raise unigram.explain_sentencepiece(model)
        if not path.exists():
            raise CheckpointError(
                f"{self.directory} has neither tokenizer.json nor vocab.txt; pass a directory that has"
            )
        self._check_vocabulary_is_all()
        vocabulary = read_vocabulary(path)
        backend = tokenizers.Tokenizer(WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=100))
        backend.normalizer = BertNormalizer(**self._rules(path, vocabulary))
        backend.pre_tokenizer = BertPreTokenizer()
        return backend

    def from_file(self, path: Path) -> tokenizers.Tokenizer:
        """Read tokenizer.json; raise CheckpointError if transformers would tokenize differently, by the settings."""
        backend = _parse(path.read_bytes(), path)
        if self.settings or self.model:
            self._check_added(path, backend)
            self._follow(backend, path)
        return _with_markers(backend)

    def _follow(self, backend: tokenizers.Tokenizer, path: Path) -> None:
        """Give a tokenizer the rules that transformers would use, or raise CheckpointError for the file's rules."""
        parts = json.loads(backend.to_str())
        kinds = {"WordPiece": BERT, "BPE": ROBERTA, "Unigram": FAIRSEQ}
        expected = next((kind for kind, classes in kinds.items() if self.tokenizer_class in classes), None)
        if expected and parts["model"]["type"] != expected:
            raise CheckpointError(
                f"{path}: model is {parts['model']['type']}, expected {expected} by the class {self.tokenizer_class}; "
                "correct tokenizer_class as when the checkpoint was trained"
            )
        if expected == "BPE":
            byte_level.check(parts, str(path))
            byte_level.as_roberta(backend, str(path), self._adds_space(False))
        elif expected == "Unigram":
            unigram.check(parts, str(path))
            unigram.as_fairseq(backend, parts, str(path), self._adds_space(True))
        else:
            self._check_file(path, parts)
        if parts["model"]["type"] == "Unigram" and self._flag("clean_up_tokenization_spaces"):
            unigram.check(parts, str(path))
            unigram.set_decoder(backend, parts, cleans=True)

    def _from_merges(self) -> tokenizers.Tokenizer:
        for name in (byte_level.VOCABULARY, byte_level.MERGES):
            if not (self.directory / name).exists():
                raise CheckpointError(
                    f"{self.directory} has neither tokenizer.json nor {name}; pass a directory that has"
                )
        self._check_vocabulary_is_all()
        backend = byte_level.read(self.directory)
        byte_level.as_roberta(backend, str(self.directory / byte_level.VOCABULARY), self._adds_space(False))
        mask = self.settings.get("mask_token") or self._json(SPECIAL_TOKENS).get("mask_token")
        lstrip = mask.get("lstrip", False) if isinstance(mask, dict) else True
        if not isinstance(mask, dict):
            self.notes.append(
                f"{ANGLED['mask_token']} of {self.directory} takes the blank before it, as in RoBERTa's own code and "
                "in transformers up to version 4, since no file says whether it does"
            )
        backend.add_special_tokens([AddedToken(ANGLED["mask_token"], lstrip=lstrip, normalized=False)])
        return backend

    def _adds_space(self, default: bool) -> bool:
        found = self._flag("add_prefix_space")
        return default if found is None else found

    def _check_specials(self, path: Path, values: Values) -> None:
        for key, names in self._specials().items():
            found = content(values.get(key))
            if found not in (None, *names):
                raise CheckpointError(
                    f"{path}: {key} is {found!r}, expected {' or '.join(map(repr, names))}; rename the token in all "
                    "files of the tokenizer"
                )

    def _specials(self) -> dict[str, tuple[str, ...]]:
        """Return the allowed names of each special token."""
        if self.tokenizer_class in (*GENERIC, None):
            return {key: (BRACKETED[key], ANGLED[key]) for key in BRACKETED}
        if self.tokenizer_class in ROBERTA + FAIRSEQ:
            ends = {"bos_token": ANGLED["cls_token"], "eos_token": ANGLED["sep_token"]}
            return {key: (name,) for key, name in (ANGLED | ends).items()}
        return {key: (name,) for key, name in BRACKETED.items()}

    def _json(self, name: str) -> Values:
        path = self.directory / name
        return read_json(path) if path.exists() else {}

    def _flag(self, key: str) -> bool | None:
        found = self.settings.get(key)
        if found is not None and not isinstance(found, bool):
            path = self.directory / SETTINGS
            raise CheckpointError(f"{path}: {key} is {found!r}, expected true or false; correct the file")
        return found

    def _rules(self, path: Path, vocabulary: dict[str, int]) -> Values:
        rules: Values = {name: self._flag(key) for key, name in RULES.items()}
        if rules["handle_chinese_chars"] is None:
            rules["handle_chinese_chars"] = True
        if rules["lowercase"] is None:
            decided = letter_case(vocabulary)
            self._note(path, decided.lowercase, decided.reason)
            rules["lowercase"] = decided.lowercase
            if rules["strip_accents"] is None:
                rules["strip_accents"] = decided.strip_accents
        return rules

    def _note(self, path: Path, lowercase: bool, reason: str) -> None:
        self.notes.append(
            f"{path} is taken to be {'uncased' if lowercase else 'cased'}, since {reason} and no do_lower_case is in "
            f"{SETTINGS}; write it there to choose"
        )

    def _check_file(self, path: Path, parts: Values) -> None:
        model, normalizer = parts["model"], parts["normalizer"] or {}
        if model["type"] != "WordPiece" or normalizer.get("type") != "BertNormalizer":
            return  # Tokenizer refuses these, with or without settings
        found = model | {"clean_text": normalizer["clean_text"]}
        for key, expected in (MODEL | {"clean_text": True}).items():
            if found[key] != expected and not (self.is_generic and key == "max_input_chars_per_word"):
                raise CheckpointError(
                    f"{path}: {key} is {found[key]!r}, expected {expected!r}; pass a tokenizer of BERT"
                )
        _check_rows(path, parts["post_processor"], self.is_generic)
        if not self.is_generic:
            self._check_rules(path, normalizer, model["vocab"])

    def _check_rules(self, path: Path, normalizer: Values, vocabulary: dict[str, int]) -> None:
        """Raise CheckpointError if tokenizer.json contradicts the settings, which transformers follows."""
        lowercase = normalizer["lowercase"]
        found = {key: normalizer[name] for key, name in RULES.items()}
        if found["strip_accents"] is None:
            found["strip_accents"] = lowercase
        said = {key: self._flag(key) for key in RULES}
        for key, value in found.items():
            if said[key] not in (None, value):
                raise CheckpointError(f"{path} has {key} = {value}, but {SETTINGS} beside it {said[key]}; {AGREE}")
        default = {"do_lower_case": True, "tokenize_chinese_chars": True, "strip_accents": lowercase}
        unsaid = [key for key, value in found.items() if said[key] is None and value != default[key]]
        if unsaid:
            self._decide(path, found, unsaid, said["do_lower_case"], vocabulary)

    def _decide(
        self, path: Path, found: Values, unsaid: list[str], lowercase: bool | None, vocabulary: dict[str, int]
    ) -> None:
        """Accept rules of the file that are not transformers' defaults, if no setting exists and the entries agree."""
        decided = letter_case(vocabulary)
        entries = {"do_lower_case": decided.lowercase, "strip_accents": decided.strip_accents}
        for key in unsaid:
            if lowercase is not None or entries.get(key) != found[key]:
                raise CheckpointError(
                    f"{path} has {key} = {found[key]}, but {SETTINGS} beside it says nothing, so transformers "
                    f"takes {not found[key]}; write it there, as when the checkpoint was trained"
                )
        self._note(path, found["do_lower_case"], decided.reason)

    # ---- added tokens

    def _added(self) -> Iterator[tuple[str, int | None]]:
        """Yield the tokens that transformers adds because of the settings, with their id or None."""
        for number, token in (self.settings.get("added_tokens_decoder") or {}).items():
            yield content(token), int(number) if number.isdecimal() else None
        yield from self._json("added_tokens.json").items()
        for values in (self.settings, self._json(SPECIAL_TOKENS)):
            for key in ("additional_special_tokens", "extra_special_tokens"):
                extra = values.get(key) or []
                for token in extra.values() if isinstance(extra, dict) else extra:
                    yield content(token), None

    def _check_vocabulary_is_all(self) -> None:
        if (self.directory / "added_tokens.json").exists():
            found = "has added_tokens.json"
        elif added := [token for token, _ in self._added() if token not in OWN]:
            found = f"has the added token {added[0]!r}"
        else:
            return
        raise CheckpointError(
            f"{self.directory} {found} but no tokenizer.json, expected both; write it with save_pretrained of "
            "transformers' fast tokenizer"
        )

    def _check_added(self, path: Path, backend: tokenizers.Tokenizer) -> None:
        ids = {token.content: number for number, token in backend.get_added_tokens_decoder().items()}
        said = [(token, number) for token, number in self._added() if token not in OWN]
        wrong = [token for token, number in said if ids.get(token) is None or number not in (None, ids[token])]
        if "added_tokens_decoder" in self.settings:
            wrong += sorted(ids.keys() - {token for token, _ in said} - OWN)
        if wrong:
            raise CheckpointError(
                f"{path} has {ids.get(wrong[0], 'no id')} for the added token {wrong[0]!r}, and {SETTINGS} beside it "
                f"{dict(said).get(wrong[0], 'no such token')}; {AGREE}"
            )


def read_vocabulary(path: Path) -> dict[str, int]:
    """Return the id of each entry: its line number, or that of the last line if it is repeated."""
    try:
        vocabulary: dict[str, int] = WordPiece.read_file(str(path))
    except Exception as error:  # the library raises bare Exception for everything
        raise CheckpointError(f"{path} cannot be read ({error}); restore the file, in UTF-8") from None
    return {token: number for token, number in vocabulary.items() if token}  # no text matches an empty line


def _check_class(path: Path, values: Values) -> None:
    name = values.get("tokenizer_class")
    supported = (*BERT, *ROBERTA, *FAIRSEQ)
    if name is not None and str(name).removesuffix("Fast") not in supported + GENERIC:
        reason = next((f"{why}, so " for start, why in REASONS.items() if str(name).startswith(start)), "")
        raise CheckpointError(
            f"{path}: tokenizer_class is {name!r}, expected {', '.join(map(repr, supported[:-1]))} or "
            f"{supported[-1]!r}; {reason}serve this model with transformers"
        )
    for key, expected in NEUTRAL.items():
        found = values.get(key)
        if found is not None and found != expected:
            raise CheckpointError(
                f"{path}: {key} is {found!r}, expected {expected!r}, BERT's own; serve this model with transformers"
            )


def _check_kinds(path: Path, values: Values) -> None:
    for key, kind in KINDS.items():
        if not isinstance(values.get(key), kind | None):
            raise CheckpointError(
                f"{path}: {key} is {str(values[key])[:80]}, expected a {kind.__name__}; correct the file"
            )


def _check_rows(path: Path, processor: Values | None, is_generic: bool) -> None:
    """Raise CheckpointError for rows other than [CLS] a [SEP] b [SEP]."""
    found = rows_of(processor)
    if processor is None and not is_generic:
        return  # transformers then uses BERT's rows
    if found != ROWS:
        raise CheckpointError(
            f"{path}: post_processor makes rows of {found.get('pair')}, expected {ROWS['pair']}; pass a tokenizer of "
            "BERT"
        )


def parse_file(contents: bytes, path: Path) -> tokenizers.Tokenizer:
    """Build a tokenizer from the contents of a tokenizer.json, without other files."""
    return _with_markers(_parse(contents, path))


def _parse(contents: bytes, path: Path) -> tokenizers.Tokenizer:
    try:
        return tokenizers.Tokenizer.from_buffer(contents)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # the library raises bare Exception for everything, or panics
        raise CheckpointError(f"{path} is not a tokenizers file ({error}); restore the file") from None


def _with_markers(backend: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """Let text contain special tokens that are not in OWN: markers with which a head was finetuned, such as "[E1]"."""
    if all(token.content in OWN for token in backend.get_added_tokens_decoder().values() if token.special):
        return backend
    parts = json.loads(backend.to_str())
    for token in parts["added_tokens"]:
        token["special"] = token["special"] and token["content"] in OWN
    return tokenizers.Tokenizer.from_str(json.dumps(parts))
