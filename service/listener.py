"""The socket on which the service listens. A supervisor needs no more of the server than this."""

import socket

from service.errors import SettingsError

BACKLOG = 2048
"""Maximum number of connections that wait to be accepted."""


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket; raise SettingsError if the address is not available."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        sentence = f"cannot listen on {host} port {port} ({error.strerror}); choose another with --host or --port"
        raise SettingsError(sentence) from None
