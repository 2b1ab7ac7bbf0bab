"""The keys file: the digest, role and last day of each key.

Each line is a key: its name, its role, the SHA-256 of the key in hexadecimal, the day it was made and,
if it expires, its last day, with blanks between. Empty lines and lines that begin with "#" are
ignored. A key is 256 random bits, so nobody can guess it from a fast hash without salt.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import logging
import os
import re
import secrets
import time
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from . import wire
from .auth import KeysError, Role, Unauthorized
from .wsgi import Environ

logger = logging.getLogger("projects_wsgi")

_CHECK_SECONDS = 1.0  # the least time between two looks at the file
_LOCK_SECONDS = 5.0  # how long to wait for another writer

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,99}")
_NAME_RULE = "must be 1 to 100 letters, digits and ._@-, and begin with a letter or a digit"
_DIGEST = re.compile(r"[0-9a-f]{64}")
_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_BEARER = re.compile(r"bearer +([!-~]+)", re.IGNORECASE | re.ASCII)

# Phoenix's rule for an admin's key from the environment; the characters are those of a header.
_SECRET = re.compile(r"(?=.*[0-9])(?=.*[a-z])[!-~]{32,}")


class Key(NamedTuple):
    """What the file says of a key.

    digest: the SHA-256 of the key, in hexadecimal.
    made, expires: the first and the last day, in UTC; None: it never expires.
    """

    name: str
    role: Role
    digest: str
    made: datetime.date
    expires: datetime.date | None

    def is_expired(self) -> bool:
        """Tell whether the last day of the key is over."""
        return self.expires is not None and self.expires < today()

    def __str__(self) -> str:
        """Return the line of the key in the file."""
        fields = [self.name, self.role.value, self.digest, str(self.made)]
        return " ".join(fields if self.expires is None else [*fields, str(self.expires)])


def today() -> datetime.date:
    """Return today's date in UTC, which decides whether a key has expired."""
    return datetime.datetime.now(datetime.timezone.utc).date()


class KeyRing:
    """Returns the role of a request's key; an Authenticate for ProjectsApp.

    path: the keys file; None: there is none. It is read again within a second after it has changed; while
        it is missing or malformed, the keys read last stay valid.
    admin_secret: one more key, an admin's; at least 32 characters with a digit and a lower-case letter.
    Raises KeysError if the file cannot be read or is malformed; ValueError if the secret is too weak.
    """

    def __init__(self, path: str | os.PathLike[str] | None, admin_secret: str | None = None) -> None:
        self._path = None if path is None else os.path.abspath(path)
        self._admin_keys = [] if admin_secret is None else [_admin_key(admin_secret)]
        self._next_look = 0.0
        self._seen = _state(self._path)
        self._keys = self._read()

    def __call__(self, environ: Environ) -> Role:
        """Return the role of the key in a request. Raises Unauthorized (401)."""
        match = _BEARER.fullmatch(environ.get("HTTP_AUTHORIZATION", ""))
        if match is None:
            raise Unauthorized
        self._read_if_changed()
        # How long the search takes tells something of a digest, and nothing of a key.
        key = self._keys.get(_digest(match[1]))
        if key is None:
            raise Unauthorized
        if key.is_expired():
            raise Unauthorized(wire.EXPIRED_TOKEN)
        return key.role

    def _read_if_changed(self) -> None:
        now = time.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + _CHECK_SECONDS
        state = _state(self._path)
        if state == self._seen:
            return
        self._seen = state
        try:
            self._keys = self._read()
        except KeysError as error:
            logger.error("%s; the keys read before stay valid", error)

    def _read(self) -> dict[str, Key]:
        """Return the keys by their digest."""
        keys = [] if self._path is None else read_keys(self._path)
        return {key.digest: key for key in [*keys, *self._admin_keys]}


def read_keys(path: str | os.PathLike[str]) -> list[Key]:
    """Return the keys of a file, in its order.

    Raises KeysError if the file cannot be read, or naming the line that is malformed.
    """
    try:
        return _parse(_read_lines(path), path)
    except FileNotFoundError:
        raise KeysError(f"there is no keys file {path}; make one with: keys add NAME --role ROLE") from None


def _read_lines(path: str | os.PathLike[str]) -> list[str]:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read().splitlines()
    except FileNotFoundError:
        raise  # a file that is missing is no error to everybody
    except UnicodeDecodeError:
        raise KeysError(f"the keys file {path} is not text in UTF-8") from None
    except OSError as error:
        raise KeysError(f"cannot read the keys file {path}: {error.strerror}") from None


def _parse(lines: Iterable[str], path: str | os.PathLike[str]) -> list[Key]:
    keys: list[Key] = []
    seen: set[str] = set()
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            key = _parse_line(line)
            if not seen.isdisjoint((key.name, key.digest)):
                raise ValueError("an earlier line has the same name or key")
        except ValueError as error:
            raise KeysError(f"the keys file {path} is malformed in line {number}: {error}") from None
        seen.update((key.name, key.digest))
        keys.append(key)
    return keys


def _parse_line(line: str) -> Key:
    fields = line.split()
    if len(fields) not in (4, 5):
        raise ValueError("a key is: name role sha256 made [expires]")
    name, role, digest, made, *expires = fields
    if not _NAME.fullmatch(name):
        raise ValueError(f"the name {_NAME_RULE}")
    if not _DIGEST.fullmatch(digest):
        raise ValueError("the SHA-256 is not 64 lower-case hexadecimal digits")
    return Key(name, _role(role), digest, parse_day(made), parse_day(expires[0]) if expires else None)


def _role(text: str) -> Role:
    try:
        return Role(text)
    except ValueError:
        raise ValueError(f"the role must be one of {', '.join(role.value for role in Role)}") from None


def parse_day(text: str) -> datetime.date:
    """Return the date that is written as 2026-12-31. Raises ValueError."""
    if _DAY.fullmatch(text):
        with contextlib.suppress(ValueError):
            return datetime.date.fromisoformat(text)
    raise ValueError(f"{text!r} is not a date like 2026-12-31")


def add_key(path: str | os.PathLike[str], name: str, role: Role, expires: datetime.date | None = None) -> str:
    """Make a key, add its digest to the file, and return the key, which is stored nowhere.

    path: the keys file, made if missing. expires: its last day, in UTC; None: it never expires.
    Raises KeysError if the name is taken or not valid, or the file cannot be changed.
    """
    if not _NAME.fullmatch(name):
        raise KeysError(f"the name {name!r} {_NAME_RULE}")
    key = secrets.token_urlsafe(32)
    with _changed(path) as lines:
        if any(other.name == name for other in _parse(lines, path)):
            raise KeysError(f"there is already a key named {name}; revoke it first, or choose another name")
        lines.append(str(Key(name, role, _digest(key), today(), expires)))
    return key


def revoke_key(path: str | os.PathLike[str], name: str) -> None:
    """Remove a key from the file; running servers refuse it within two seconds.

    Raises KeysError if there is no such key, or the file cannot be changed.
    """
    with _changed(path) as lines:
        if all(key.name != name for key in _parse(lines, path)):
            raise KeysError(f"there is no key named {name} in {path}")
        lines[:] = [line for line in lines if line.split()[:1] != [name]]


@contextlib.contextmanager
def _changed(path: str | os.PathLike[str]) -> Iterator[list[str]]:
    """Yield the lines of a file, and replace the file with what has become of them.

    The new file, which only its owner can read, is also the lock: one process at a time can make it.
    """
    path = os.path.realpath(path)
    new = f"{path}.new"
    descriptor = _open_new(new)
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            lines: list[str] = []
            with contextlib.suppress(FileNotFoundError):
                lines = _read_lines(path)
            yield lines
            file.writelines(f"{line}\n" for line in lines)
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(new)
        if isinstance(error, OSError):
            raise KeysError(f"cannot write the keys file {path}: {error.strerror}") from None
        raise


def _open_new(path: str) -> int:
    deadline = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            if time.monotonic() > deadline:
                raise KeysError(
                    f"{path} exists: another process is changing the keys, or was stopped while it did;"
                    " if none is, remove it and try again"
                ) from None
            time.sleep(0.02)
        except OSError as error:
            raise KeysError(f"cannot write {path}: {error.strerror}") from None


def _admin_key(secret: str) -> Key:
    if not _SECRET.fullmatch(secret):
        raise ValueError(
            "the admin secret must have at least 32 characters, all of them visible ASCII,"
            " with a digit and a lower-case letter among them"
        )
    return Key("admin-secret", Role.ADMIN, _digest(secret), today(), None)


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode("ascii")).hexdigest()


def _state(path: str | None) -> object:
    """Return what changes when a file does; None if there is none."""
    if path is None:
        return None
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
