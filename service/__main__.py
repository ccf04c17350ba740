"""Serves bundles: python -m service [--bundle DIR]... [--host H] [--port P] [--workers N], or bertheads-serve.

Each setting is both a flag and an environment variable, as --max-items and BERTHEADS_MAX_ITEMS. The flag wins.
"""

import argparse
import logging
import signal
import sys
from collections.abc import Collection, Sequence
from typing import Literal, get_args, get_origin

from pydantic import ValidationError

from models.command_line import Parser
from models.errors import BertheadsError
from models.input_errors import expected
from service import logs
from service.errors import SettingsError
from service.settings import PREFIX, STARTER, Settings, check_environment

logger = logging.getLogger(__name__)

EXAMPLES = """examples:
  bertheads-serve
  bertheads-serve --bundle models/starter --bundle tickets --port 8080
"""
REPEATED = {"bundles": "DIR", "rename": "BUNDLE:HEAD=NEW"}
"""Settings whose flag may be repeated, and the name of their value in the help."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    given = parse(arguments)
    try:
        return run(settings(given), given)
    except BertheadsError as error:
        sys.stderr.write(f"bertheads-serve: {error}\n")
        return 1


def run(settings: Settings, given: Collection[str] = ()) -> int:
    """Listen, then load and serve in this process or under a supervisor; `given` are the settings set by flags."""
    from service import samples
    from service.listener import listen

    logs.configure(settings.log_level, settings.log_format)
    if "api_key" in given:
        logger.warning("other users of this machine can read --api-key; use %sAPI_KEY or --api-keys-file", PREFIX)
    samples.check(settings)
    with listen(settings.host, settings.port) as listener:
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # until there is a handler: no bundle has been read yet
        host, port = listener.getsockname()[:2]
        logger.info("listening on http://%s:%d", f"[{host}]" if ":" in host else host, port)
        samples.announce(settings)
        if settings.worker_count == 1 and not settings.has_fronts:
            from service.server import serve

            return serve(settings, listener)
        from service.supervisor import Supervisor

        return Supervisor(settings, listener).run()


def parse(arguments: Sequence[str] | None) -> dict[str, object]:
    """Return the values of the flags that were given, by the name of their setting."""
    parser = Parser(
        "bertheads-serve",
        usage="bertheads-serve [--bundle DIR]... [--host HOST] [--port PORT] [options]",
        description="Serves bundles of finetuned BERT heads over HTTP.\nEach flag is also an environment variable.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
    )
    parser.add_version()
    for name, setting in Settings.model_fields.items():
        flag = "--" + name.replace("_", "-")
        text = f"{setting.description} [{PREFIX}{name.upper()}{_default(setting.default)}]".replace("%", "%%")
        if setting.annotation is bool:
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, help=text)
        elif name in REPEATED:
            flags = ["--bundle", flag] if name == "bundles" else [flag]
            parser.add_argument(*flags, action="append", dest=name, metavar=REPEATED[name], help=text)
        else:
            parser.add_argument(flag, metavar=_metavar(name, setting.annotation), help=text)
    given = vars(parser.parse_args(arguments))
    return given | {name: ",".join(given[name]) for name in REPEATED if name in given}


def _metavar(name: str, kind: object) -> str:
    """Return a setting's choices, or a name for its value."""
    literals = [part for part in (kind, *get_args(kind)) if get_origin(part) is Literal]
    choices = ",".join(str(choice) for part in literals for choice in get_args(part))
    return f"{{{choices}}}" if choices else name.split("_")[-1].upper()


def _default(value: object) -> str:
    if value == (STARTER,):
        return "; default the starter bundle"
    shown = ",".join(map(str, value)) if isinstance(value, tuple) else value
    return "" if shown in (None, "", {}) else f"; default {shown}"


def settings(given: dict[str, object]) -> Settings:
    """Combine flags, environment and defaults, in this order of precedence; raise SettingsError for a wrong value."""
    check_environment()
    try:
        return Settings(**given)  # type: ignore[arg-type]
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        name = str(first["loc"][0]) if first["loc"] else ""
        message = expected(first["msg"])
        if not name:
            raise SettingsError(message) from None
        flag = "--" + name.replace("_", "-")
        value = "given" if name == "api_key" else repr(first["input"])
        raise SettingsError(f"{flag} ({PREFIX}{name.upper()}) is {value}: {message}") from None


if __name__ == "__main__":
    sys.exit(main())
