"""API keys with names, from a setting and from a file that may change while the service runs.

Each line of the file is NAME KEY or NAME KEY WEIGHT; blank lines and lines that begin with # are skipped. Several lines
may have the same name, so a client can change its key without a gap. A file may also contain only a key, as secrets of
Docker and Kubernetes do; this key gets the name "default".
"""

import asyncio
import ipaddress
import logging
import math
import os
import re
import secrets
import time
from collections import OrderedDict
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from service.errors import SettingsError
from service.metrics import Metrics

logger = logging.getLogger(__name__)

DEFAULT_NAME = "default"
"""The name of a key without a name: the setting api_key, or the key in a file that contains only a key."""
NAME = re.compile(r"[A-Za-z0-9._@-]{1,64}")
MIN_WEIGHT, MAX_WEIGHT = 0.01, 100
"""Bounds of a key's weight: requests with a smaller one would practically wait for ever."""
CONTROL = re.compile(r"[\x00-\x1f\x7f]")
"""Characters that no header can carry."""
MAX_FILE_BYTES = 1 << 20
LOOK_SECONDS = 1.0
"""Seconds between checks whether the file has changed."""
MAX_GUESSES = 10
"""Wrong keys per address and GUESS_SECONDS that are answered without a delay."""
GUESS_SECONDS = 60.0
MAX_ADDRESSES = 4096
"""Maximum addresses whose wrong keys are counted; the one without wrong keys for the longest time is dropped first."""


@dataclass(frozen=True, slots=True)
class Key:
    """The name and weight of a key; the key itself is kept only as a digest."""

    name: str
    weight: float = 1.0
    """The client's share of the computing time, relative to others."""


class Keys:
    """The keys that are valid now."""

    def __init__(self, path: Path | None, single: str | None, metrics: Metrics) -> None:
        """`path`: the file of keys; `single`: the setting api_key. If both are None, no key is required."""
        self.path = path
        self.required = bool(path or single)
        self._metrics = metrics
        self._secret = secrets.token_bytes(32)
        self._single = self._digests([(single, Key(DEFAULT_NAME))]) if single else {}
        self._known = self._single
        self._seen: object = ()
        self._complaint = ""
        self._declare()
        if path:
            self.look()

    def find(self, key: bytes) -> Key | None:
        """Return the name and weight of a valid key, or None.

        The digest depends on a secret of this process, so the time of the look-up reveals nothing about valid keys.
        """
        return self._known.get(self._digest(key))

    async def watch(self) -> None:
        """Check the file every LOOK_SECONDS, on a thread, because file systems can be slow."""
        while self.path:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                await asyncio.to_thread(self.look)
            except Exception:
                logger.exception("checking %s failed; trying again", self.path)

    def look(self) -> None:
        """Read the file if it has changed; if it is unreadable or invalid, keep the old keys, log it and count it."""
        assert self.path
        found = _signature(self.path)
        if found == self._seen and not self._complaint:
            return
        self._seen = found
        try:
            keys = read_keys(self.path)
        except SettingsError as error:
            self._complain(str(error))
            return
        self._complaint = ""
        self._metrics.key_file_broken.set(0)
        self._known = self._single | self._digests(keys)
        self._declare()
        logger.info("keys read from %s: %d", self.path, len(keys))

    def _complain(self, sentence: str) -> None:
        if sentence != self._complaint:
            self._complaint = sentence
            self._metrics.key_file_broken.set(1)
            self._metrics.key_file_errors.inc()
            logger.error("%s; the previous keys stay valid", sentence)

    def _declare(self) -> None:
        for name in {key.name for key in self._known.values()}:
            self._metrics.declare_key(name)

    def _digests(self, keys: list[tuple[str, Key]]) -> dict[bytes, Key]:
        """Return keys by digest; clients may send non-ASCII letters as UTF-8 or as Latin-1."""
        latin = {self._digest(text.encode("latin-1")): key for text, key in keys if _is_latin(text)}
        return latin | {self._digest(text.encode()): key for text, key in keys}

    def _digest(self, key: bytes) -> bytes:
        return blake2b(key, key=self._secret, digest_size=16).digest()


class Guesses:
    """Counts wrong keys per client address."""

    def __init__(self) -> None:
        self._recent: OrderedDict[str, tuple[int, float]] = OrderedDict()
        """Number of wrong keys, and when the count restarts, by address; the latest address is at the end."""

    def note(self, address: str) -> bool:
        """Count a wrong key; return whether its address has sent too many."""
        now, network = time.monotonic(), _network(address)
        count, end = self._recent.pop(network, (0, 0.0))
        if now >= end:
            count, end = 0, now + GUESS_SECONDS
        self._recent[network] = count + 1, end
        if len(self._recent) > MAX_ADDRESSES:
            self._recent.popitem(last=False)
        return count >= MAX_GUESSES


def read_keys(path: Path) -> list[tuple[str, Key]]:
    """Return the keys of a file; raise SettingsError, which names file and line but quotes nothing from the file."""
    lines = [(number, line.strip(" \t\r")) for number, line in enumerate(_text(path).split("\n"), 1)]
    lines = [(number, line) for number, line in lines if line and not line.startswith("#")]
    if not lines:
        raise SettingsError(f"{path} has no key; write a line NAME KEY")
    if len(lines) == 1 and not re.search("[ \t]", lines[0][1]):
        return [(_checked(path, *lines[0]), Key(DEFAULT_NAME))]
    keys = [_parse(path, number, line) for number, line in lines]
    _check_unique(path, [number for number, _ in lines], keys)
    return keys


def _text(path: Path) -> str:
    try:
        if not path.is_file():  # a pipe would block, a device would not end
            raise SettingsError(f"{path} is not a readable file; name a file of keys")
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
        if len(content) > MAX_FILE_BYTES:
            raise SettingsError(f"{path} has more than {MAX_FILE_BYTES} bytes; name a file of keys")
        return content.decode("utf-8-sig")
    except OSError as error:
        raise SettingsError(f"{path} cannot be read ({error.strerror}); name a readable file of keys") from None
    except UnicodeDecodeError:
        raise SettingsError(f"{path} is not UTF-8; write a line NAME KEY for each key") from None


def _parse(path: Path, number: int, line: str) -> tuple[str, Key]:
    words = re.split("[ \t]+", line)
    if len(words) not in (2, 3):
        raise _wrong(path, number, f"has {_counted(len(words), 'word')}; write NAME KEY or NAME KEY WEIGHT")
    if not NAME.fullmatch(words[0]):
        raise _wrong(path, number, "begins with a name that is not 1 to 64 of A-Z a-z 0-9 . _ @ -; choose another")
    weight = _number(words[2]) if len(words) == 3 else 1.0
    if not MIN_WEIGHT <= weight <= MAX_WEIGHT:
        raise _wrong(path, number, f"has a weight that is not from {MIN_WEIGHT} to {MAX_WEIGHT}; write 2.5, or none")
    return _checked(path, number, words[1]), Key(words[0], weight)


def _checked(path: Path, number: int, key: str) -> str:
    if CONTROL.search(key):
        raise _wrong(path, number, "has a control character, which no header can carry; write the key again")
    return key


def _check_unique(path: Path, numbers: list[int], keys: list[tuple[str, Key]]) -> None:
    lines: dict[str, int] = {}
    weights: dict[str, tuple[float, int]] = {}
    for number, (text, key) in zip(numbers, keys, strict=True):
        if (first := lines.setdefault(text, number)) != number:
            raise _wrong(path, number, f"has the key of line {first}; remove one of them")
        weight, first = weights.setdefault(key.name, (key.weight, number))
        if weight != key.weight:
            raise _wrong(path, number, f"has the name of line {first} with another weight; write the same")


def _wrong(path: Path, number: int, sentence: str) -> SettingsError:
    return SettingsError(f"{path} line {number} {sentence}")


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _number(word: str) -> float:
    try:
        return float(word)
    except ValueError:
        return math.nan


def _signature(path: Path) -> object:
    """Return a value that changes with a file, its mode and its links; None if there is no file."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _is_latin(text: str) -> bool:
    return all(ord(letter) < 256 for letter in text)


def _network(address: str) -> str:
    """Return the key under which guesses are counted: an IPv4 address, or the 64-bit prefix of an IPv6 address."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address[:64]
    if isinstance(parsed, ipaddress.IPv4Address):
        return address
    return str(parsed.ipv4_mapped or int(parsed) >> 64)
