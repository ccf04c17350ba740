"""The languages whose sentences `sentencex` can split; for any other code it silently uses English rules."""

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
"""Languages with their own rules (wikimedia/sentencex, src/languages), by ISO 639-1 code."""
RELATED = {
    "an": "es", "ast": "es", "as": "bn", "ay": "es", "ba": "ru", "bar": "de", "ce": "ru", "co": "it",
    "cs": "sk", "csb": "pl", "cv": "ru", "dsb": "de", "fur": "it", "gl": "pt", "gn": "es", "gsw": "de", "hsb": "de",
    "ht": "fr", "kl": "da", "lb": "de", "li": "nl", "ln": "fr", "mg": "fr", "nds": "de", "oc": "ca", "os": "ru",
    "qu": "es", "sa": "hi", "scn": "it", "sco": "en", "tt": "ru", "vec": "it", "wa": "fr", "wo": "fr",
}  # fmt: skip
"""Languages that use the rules of a related one (src/languages/fallbacks.rs)."""
GENERAL = {"ur": "Urdu", "zh": "Chinese"}
"""Languages that the general rules cover."""


@cache
def rules_of(code: str) -> str:
    """Return the code of the rules for splitting sentences; a region is dropped (de-AT, pt_BR).

    Raise DataError for a language without rules, and name the nearest ones.
    """
    language = code.casefold().replace("_", "-").split("-")[0]
    if language in RULES or language in GENERAL:
        return language
    if language in RELATED:
        return RELATED[language]
    names = {name.casefold(): known for known, name in (RULES | GENERAL).items()}
    near = get_close_matches(language, [*RULES, *RELATED, *GENERAL, *names], 3, 0.5)
    nearest = f" (similar: {', '.join(dict.fromkeys(names.get(one, one) for one in near))})" if near else ""
    raise DataError(
        f"language {code!r} has no rules for splitting sentences, expected one of {', '.join(sorted(RULES))}{nearest}; "
        "pass one of them, or en for general rules"
    )
