"""Writes docs/settings.md from the settings of the service: python -m tests.settings_page."""

from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo

from service.__main__ import REPEATED
from service.settings import PREFIX, STARTER, Settings

PAGE = Path(__file__).parents[1] / "docs/settings.md"
HEAD = """# Settings of the service

Each setting is a flag of `bertheads-serve` and an environment variable; the flag wins. `tests/settings_page.py` writes
this page from `service/settings.py`.

| flag | variable | default | what |
|---|---|---|---|
"""


def settings_page() -> str:
    """Return the page."""
    return HEAD + "".join(_row(name, setting) for name, setting in Settings.model_fields.items())


def _row(name: str, setting: FieldInfo) -> str:
    flag = "bundle" if name == "bundles" else name.replace("_", "-")
    text = str(setting.description).replace("|", "\\|")
    several = "; may be given several times" if name in REPEATED else ""
    return f"| `--{flag}` | `{PREFIX}{name.upper()}` | {_default(setting.default)} | {text}{several} |\n"


def _default(value: Any) -> str:
    if value in (None, "", {}, ()):
        return ""
    shown = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return f"`{shown.replace(str(STARTER), 'the starter')}`"


if __name__ == "__main__":
    PAGE.write_text(settings_page(), encoding="utf8")
