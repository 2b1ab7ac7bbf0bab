"""The keys file: who has which role, until when, told by the digest of a key that only they know.

Each line is a key: its name, its role, the SHA-256 of the key in hexadecimal, the day it was made and,
if it does not last for ever, its last day, with blanks between. Lines that are empty or begin with
"#" are ignored. A key is 256 random bits: nobody can guess it, so a fast hash without salt keeps it
as safe as a slow one would.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import hmac
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

_CHECK_SECONDS = 1.0  # how often the file is looked at, at most
_LOCK_SECONDS = 5.0  # how long another writer is waited for

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,99}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_BEARER = re.compile(r"bearer +([!-~]+)", re.IGNORECASE)

# Phoenix's rule for an admin's key from the environment; what a header cannot hold would never be met.
_SECRET = re.compile(r"(?=.*[0-9])(?=.*[a-z])[!-~]{32,}")


class Key(NamedTuple):
    """One key, or rather what is known of it.

    digest: of the key, in hexadecimal. made, expires: days, in UTC; None: it lasts for ever.
    """

    name: str
    role: Role
    digest: str
    made: datetime.date
    expires: datetime.date | None

    def is_expired(self) -> bool:
        return self.expires is not None and self.expires < today()

    def __str__(self) -> str:
        fields = [self.name, self.role.value, self.digest, str(self.made)]
        return " ".join(fields if self.expires is None else [*fields, str(self.expires)])


_NOBODY = Key("", Role.VIEWER, "0" * 64, datetime.date.min, None)


def today() -> datetime.date:
    """Return the day that it is in UTC, by which keys expire."""
    return datetime.datetime.now(datetime.timezone.utc).date()


class KeyRing:
    """Tells the role of whoever holds a key, for require_role.

    path: the keys file; None: there is none. It is read again when it has changed, within a second;
        while it is gone or malformed, the last good keys hold.
    admin_secret: an admin's key besides, of at least 32 characters with a digit and a lower-case letter.
    Raises KeysError where the file cannot be read or is malformed; ValueError for a secret too weak.
    """

    def __init__(self, path: str | os.PathLike[str] | None, admin_secret: str | None = None) -> None:
        self._path = None if path is None else os.path.abspath(path)
        self._admin = None if admin_secret is None else _admin_key(admin_secret)
        self._keys: dict[str, Key] = {}
        self._next_look = 0.0
        self._seen: object = None
        if self._path is not None:
            self._seen = _state(self._path)
            self._use(read_keys(self._path))
        else:
            self._use([])

    def __call__(self, environ: Environ) -> Role:
        """Return the role of who sent a request. Raises Unauthorized (401)."""
        match = _BEARER.fullmatch(environ.get("HTTP_AUTHORIZATION", ""))
        # Whatever came is hashed, so that all take alike.
        digest = _digest(match[1] if match else "")
        self._look()
        # Found by the digest, whose bytes tell nothing of the key's: how long this takes is no secret.
        key = self._keys.get(digest, _NOBODY)
        if not hmac.compare_digest(key.digest, digest) or match is None:
            raise Unauthorized
        if key.is_expired():
            raise Unauthorized(wire.EXPIRED_TOKEN)
        return key.role

    def _look(self) -> None:
        """Read the file again if it has changed, and if it is time to look."""
        now = time.monotonic()
        if self._path is None or now < self._next_look:
            return
        self._next_look = now + _CHECK_SECONDS
        state = _state(self._path)
        if state == self._seen:
            return
        self._seen = state
        try:
            self._use(read_keys(self._path))
        except KeysError as error:
            logger.error("%s; the keys read before hold on", error)

    def _use(self, keys: Iterable[Key]) -> None:
        by_digest = {key.digest: key for key in keys}
        if self._admin is not None:
            by_digest[self._admin.digest] = self._admin
        self._keys = by_digest


def read_keys(path: str | os.PathLike[str]) -> list[Key]:
    """Return the keys of a file, in its order. Raises KeysError, naming the line that is malformed."""
    try:
        return _parse(_read_lines(path), path)
    except FileNotFoundError:
        raise KeysError(f"there is no keys file {path}; make one with: keys add NAME --role ROLE") from None


def _read_lines(path: str | os.PathLike[str]) -> list[str]:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read().splitlines()
    except FileNotFoundError:
        raise
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
                raise ValueError("its name or its key stands in a line before")
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
        raise ValueError("the name is not of letters, digits and ._@-")
    if not _DIGEST.fullmatch(digest):
        raise ValueError("the SHA-256 is not of 64 lower-case hexadecimal digits")
    return Key(name, _role(role), digest, parse_day(made), parse_day(expires[0]) if expires else None)


def _role(text: str) -> Role:
    try:
        return Role(text)
    except ValueError:
        raise ValueError(f"the role must be one of {', '.join(role.value for role in Role)}") from None


def parse_day(text: str) -> datetime.date:
    """Return the day that is written as 2026-12-31. Raises ValueError."""
    if _DAY.fullmatch(text):
        with contextlib.suppress(ValueError):
            return datetime.date.fromisoformat(text)
    raise ValueError(f"{text!r} is no day like 2026-12-31")


def add_key(path: str | os.PathLike[str], name: str, role: Role, expires: datetime.date | None = None) -> str:
    """Make a key, note it in the file, which is made if missing, and return it: it is kept nowhere.

    expires: its last day. Raises KeysError where the name is taken or malformed.
    """
    if not _NAME.fullmatch(name):
        raise KeysError(f"the name {name!r} is not of letters, digits and ._@-, and at most 100 of them")
    key = secrets.token_urlsafe(32)
    with _changed(path) as lines:
        if any(other.name == name for other in _parse(lines, path)):
            raise KeysError(f"there is a key named {name} already; revoke it first, or choose another name")
        lines.append(str(Key(name, role, _digest(key), today(), expires)))
    return key


def revoke_key(path: str | os.PathLike[str], name: str) -> None:
    """Take a key out of the file; servers let it in no more within two seconds.

    Raises KeysError where there is no such key.
    """
    with _changed(path) as lines:
        if all(key.name != name for key in _parse(lines, path)):
            raise KeysError(f"there is no key named {name} in {path}")
        lines[:] = [line for line in lines if line.split()[:1] != [name]]


@contextlib.contextmanager
def _changed(path: str | os.PathLike[str]) -> Iterator[list[str]]:
    """Give the lines of a file to be changed, and write them in one step, while nobody else may.

    The new file, which only its owner may read, is itself the lock: whoever makes it has it.
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
                    f"{path} is in the way: somebody else is changing the keys or was broken off in it;"
                    " if nobody is, remove it and try again"
                ) from None
            time.sleep(0.02)
        except OSError as error:
            raise KeysError(f"cannot write {path}: {error.strerror}") from None


def _admin_key(secret: str) -> Key:
    if not _SECRET.fullmatch(secret):
        raise ValueError(
            "the admin secret must have at least 32 characters, a digit and a lower-case letter among them,"
            " and none but visible ASCII ones"
        )
    return Key("admin-secret", Role.ADMIN, _digest(secret), today(), None)


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def _state(path: str) -> object:
    """Return what changes when a file does; None for no file."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
