"""How a command ends: with status 0, or with another status and one sentence on standard error."""

import argparse
import errno
import signal
import sys
from collections.abc import Callable, Sequence

from models.errors import BertheadsError
from training.run.interruption import handled, is_complete, left_behind, raise_interrupted, speaks, status_of

FREE_SPACE = "free some space, and run the same command again"
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
REMEDIES = dict.fromkeys(NO_ROOM, FREE_SPACE) | {
    errno.EROFS: "name a path that can be written",
    errno.EACCES: "allow it with chmod, or name another path",
}
"""Remedies by the number of the system error."""


def run_command(parser: Callable[[], argparse.ArgumentParser], words: Sequence[str]) -> None:
    """Parse `words`, and run the `command` that the parser sets; on failure, exit with status 1 and one sentence."""
    namespace, complete = argparse.Namespace(out=None), False
    try:
        with handled(raise_interrupted, [signal.SIGTERM]):
            parser().parse_args(words, namespace)
            complete = is_complete(namespace.out)
            command: Callable[[argparse.Namespace], None] = namespace.command
            command(namespace)
    except BertheadsError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(1)
    except OSError as error:
        if not error.filename and error.errno not in REMEDIES:
            raise  # it is not about a named path
        remedy = REMEDIES.get(error.errno or 0, "name a path that exists and can be used")
        named = error.filename or namespace.out  # a write that fails does not name its file
        place = f"{named}: " if named else ""
        sys.stderr.write(f"error: {place}{error.strerror or error}; {remedy}\n")
        sys.exit(1)
    except KeyboardInterrupt as interrupt:
        sentence = getattr(interrupt, "sentence", "") or left_behind(namespace.out, complete)
        if speaks():
            sys.stderr.write(f"\n{sentence}\n")
        sys.exit(status_of(interrupt))
