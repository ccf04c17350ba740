"""The languages whose sentence ends `sentencex` knows; for any other code it takes the rules of English, unsaid."""

from difflib import get_close_matches
from functools import cache

from training.errors import DataError

RULES = {
    "am": "Amharic", "ar": "Arabic", "bg": "Bulgarian", "bn": "Bengali", "ca": "Catalan", "da": "Danish",
    "de": "German", "el": "Greek", "en": "English", "es": "Spanish", "fi": "Finnish", "fr": "French", "gu": "Gujarati",
    "hi": "Hindi", "hy": "Armenian", "it": "Italian", "ja": "Japanese", "kk": "Kazakh", "kn": "Kannada",
    "ml": "Malayalam", "mr": "Marathi", "my": "Burmese", "nl": "Dutch", "pa": "Punjabi", "pl": "Polish",
    "pt": "Portuguese", "ru": "Russian", "sk": "Slovak", "ta": "Tamil", "te": "Telugu", "uk": "Ukrainian",
}  # fmt: skip
"""Those with rules of their own (wikimedia/sentencex, src/languages), by ISO 639-1 code."""
RELATED = {
    "an": "es", "ast": "es", "as": "bn", "ay": "es", "ba": "ru", "bar": "de", "ce": "ru", "co": "it",
    "cs": "sk", "csb": "pl", "cv": "ru", "dsb": "de", "fur": "it", "gl": "pt", "gn": "es", "gsw": "de", "hsb": "de",
    "ht": "fr", "kl": "da", "lb": "de", "li": "nl", "ln": "fr", "mg": "fr", "nds": "de", "oc": "ca", "os": "ru",
    "qu": "es", "sa": "hi", "scn": "it", "sco": "en", "tt": "ru", "vec": "it", "wa": "fr", "wo": "fr",
}  # fmt: skip
"""Those for which it takes the rules of a related language (src/languages/fallbacks.rs)."""
GENERAL = {"ur": "Urdu", "zh": "Chinese"}
"""Those whose sentence ends are among the general rules, which hold for all."""


@cache
def rules_of(code: str) -> str:
    """Return the code to cut sentences by: that of the language where a region is named too (de-AT, pt_BR).

    Raise DataError for a language without rules, with the nearest ones.
    """
    language = code.casefold().replace("_", "-").split("-")[0]
    if language in RULES or language in GENERAL:
        return language
    if language in RELATED:
        return RELATED[language]
    names = {name.casefold(): known for known, name in (RULES | GENERAL).items()}
    near = get_close_matches(language, [*RULES, *RELATED, *GENERAL, *names], 3, 0.5)
    nearest = f" (near it: {', '.join(dict.fromkeys(names.get(one, one) for one in near))})" if near else ""
    raise DataError(
        f"language {code!r} has no rules of where sentences end, expected one of {', '.join(sorted(RULES))}{nearest}; "
        "pass one of them, en for general rules"
    )
