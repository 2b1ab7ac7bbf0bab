"""The keys file: the digest, role and last day of each key.

Each line is a key: its name, its role, the SHA-256 of the key in hexadecimal, the day it was made and,
if it expires, its last day, with blanks between. Empty lines and lines that begin with "#" are
ignored. A key is 256 random bits, so nobody can guess it from a fast hash without salt.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import logging
import os
import re
import stat
import time
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from .auth import KeysError, Role, Unauthorized
from .files import copy_permissions, create_held, sync_folder
from .wsgi import USER, Environ

logger = logging.getLogger("projects_wsgi")

_CHECK_SECONDS = 1.0  # the least time between two looks at the file
_LOCK_SECONDS = 5.0  # how long to wait for another writer
_TRUST_SECONDS = 60.0  # for which keys stay valid after the file can no longer be read

_NAME = "[A-Za-z0-9][A-Za-z0-9._@-]{0,99}"
_LINE = re.compile(rf"\s*({_NAME})\s+(\w+)\s+([0-9a-f]{{64}})\s+(\S+)(?:\s+(\S+))?\s*")
_BEARER = re.compile(r"bearer +([!-~]+)", re.IGNORECASE | re.ASCII)

# Phoenix's rule for an admin's key from the environment; the characters are those of a header.
_SECRET = re.compile(r"(?=.*[0-9])(?=.*[a-z])[!-~]{32,}")


class Key(NamedTuple):
    """What the file says of a key. made, expires: its first and last day, in UTC; None: it never expires."""

    name: str
    role: Role
    digest: str
    made: datetime.date
    expires: datetime.date | None

    def is_expired(self) -> bool:
        """Tell whether the last day of the key is over."""
        return self.expires is not None and self.expires < today()


def today() -> datetime.date:
    """Return today's date in UTC, which decides whether a key has expired."""
    return datetime.datetime.now(datetime.timezone.utc).date()


class KeyRing:
    """Returns the role of a request's key; an Authenticate for ProjectsApp.

    path: the keys file; None: there is none. It is read again within a second after it has changed. When
        it can no longer be read, none of its keys is valid from a minute on after a request when it could.
    admin_secret: one more key, an admin's; at least 32 characters with a digit and a lower-case letter.
    Raises KeysError if the file cannot be read or is malformed; ValueError if the secret is too weak.
    """

    def __init__(self, path: str | os.PathLike[str] | None, admin_secret: str | None = None) -> None:
        self._path = None if path is None else _absolute(path)
        self._admin_keys: dict[str, Key] = {}
        if admin_secret is not None:
            if not _SECRET.fullmatch(admin_secret):
                raise ValueError(
                    "the admin secret must have at least 32 characters, all of them visible ASCII,"
                    " with a digit and a lower-case letter among them"
                )
            digest = _digest(admin_secret)
            self._admin_keys[digest] = Key("admin-secret", Role.ADMIN, digest, today(), None)
        self._keys = self._admin_keys
        self._seen: object = None
        if self._path is not None:
            self._read_if_changed(self._path)
        self._last_good = self._next_look = time.monotonic()

    def __call__(self, environ: Environ) -> Role:
        """Return the role of the key in a request; put its name into environ. Raises Unauthorized (401)."""
        match = _BEARER.fullmatch(environ.get("HTTP_AUTHORIZATION", ""))
        if match is None:
            raise Unauthorized
        self._look()
        # How long the search takes tells something of a digest, and nothing of a key.
        key = self._keys.get(_digest(match[1]))
        if key is None:
            raise Unauthorized
        environ[USER] = key.name
        if key.is_expired():
            raise Unauthorized("Expired token")
        return key.role

    def _look(self) -> None:
        now = time.monotonic()
        if self._path is None or now < self._next_look:
            return
        self._next_look = now + _CHECK_SECONDS
        try:
            self._read_if_changed(self._path)
            self._last_good = now
        except KeysError as error:
            self._seen = None
            outcome = "the keys read before stay valid until a minute after it last could be"
            if now - self._last_good >= _TRUST_SECONDS:
                self._keys = self._admin_keys
                outcome = "none of its keys is valid"
            logger.error("%s; %s", error, outcome)

    def _read_if_changed(self, path: str) -> None:
        state = _state(path)
        if state is None or state != self._seen:
            self._keys = {**{key.digest: key for key in read_keys(path)}, **self._admin_keys}
            self._seen = state


def read_keys(path: str | os.PathLike[str]) -> list[Key]:
    """Return the keys of a file, in its order. Raises KeysError, naming the line if one is malformed."""
    try:
        return _parse(_read_lines(path), path)
    except FileNotFoundError:
        raise KeysError(f"there is no keys file {path}; make one with: keys add NAME --role ROLE") from None
    except OSError as error:
        raise KeysError(f"cannot read the keys file {path}: {error.strerror}") from None


def _read_lines(path: str | os.PathLike[str]) -> list[str]:
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # to open a pipe could take for ever
            raise KeysError(f"cannot read the keys file {path}: it is not a file")
        with open(path, encoding="utf-8-sig", newline="") as file:
            text = file.read()
    except UnicodeDecodeError:
        raise KeysError(f"the keys file {path} is not text in UTF-8") from None
    # Not splitlines(): what it takes for the end of a line may stand in a comment.
    return text.removesuffix("\n").split("\n") if text else []


def _parse(lines: Iterable[str], path: str | os.PathLike[str]) -> list[Key]:
    keys: list[Key] = []
    seen: set[str] = set()
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            match = _LINE.fullmatch(line)
            if match is None:
                raise ValueError("a key is: name role sha256 made [expires]")
            name, role, digest, made, expires = match.groups()
            if not seen.isdisjoint((name, digest)):
                raise ValueError("an earlier line has the same name or key")
            expiry = parse_day(expires) if expires else None
            keys.append(Key(name, Role(role), digest, parse_day(made), expiry))
        except ValueError as error:
            raise KeysError(f"the keys file {path} is malformed in line {number}: {error}") from None
        seen.update((name, digest))
    return keys


def parse_day(text: str) -> datetime.date:
    """Return the date that is written as 2026-12-31. Raises ValueError."""
    with contextlib.suppress(ValueError):
        day = datetime.date.fromisoformat(text)
        if str(day) == text:  # newer Pythons read other spellings as well
            return day
    raise ValueError(f"{text!r} is not a date like 2026-12-31")


def add_key(path: str | os.PathLike[str], name: str, role: Role, expires: datetime.date | None = None) -> str:
    """Make a key, add its digest to the file, and return the key, which is stored nowhere.

    The file is made if it is missing. Raises KeysError.
    """
    import secrets  # here, because most servers need neither this nor hashlib, which take 5 ms

    if not re.fullmatch(_NAME, name):
        raise KeysError(f"the name {name!r} must be 1 to 100 letters, digits and, not at its start, ._@-")
    key = secrets.token_urlsafe(32)
    with _changed(path) as lines:
        if any(other.name == name for other in _parse(lines, path)):
            raise KeysError(f"there is already a key named {name}; revoke it first, or choose another name")
        lines.append(f"{name} {role.value} {_digest(key)} {today()} {expires or ''}".rstrip())
    return key


def revoke_key(path: str | os.PathLike[str], name: str) -> None:
    """Remove a key from the file; running servers refuse it within two seconds. Raises KeysError."""
    with _changed(path) as lines:
        if all(key.name != name for key in _parse(lines, path)):
            raise KeysError(f"there is no key named {name} in {path}")
        lines[:] = [line for line in lines if line.split()[:1] != [name]]


@contextlib.contextmanager
def _changed(path: str | os.PathLike[str]) -> Iterator[list[str]]:
    """Yield the lines of a file, and replace the file with what has become of them.

    The new file is also the lock: one process at a time can hold it. It has the owner, the group, the
    mode and the access list of the old one, or only its owner can read it.
    """
    try:
        path = os.path.realpath(_absolute(path))
        new = f"{path}.unfinished"
        with open(_open_new(new), "wb") as file:
            try:
                lines, names = [], 1
                if os.path.exists(path):
                    names = os.stat(path).st_nlink
                    copy_permissions(path, file.fileno(), must_keep_owner=True)  # servers go on reading it
                    lines = _read_lines(path)
                yield lines
                file.write("".join(f"{line}\n" for line in lines).encode())
                file.flush()
                os.fsync(file.fileno())
                if os.name == "nt":  # Windows renames no file that is open
                    file.close()
                os.replace(new, path)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(new)  # while it is held: later, it may be another process's
                raise
    except OSError as error:
        hint = "; if it is mounted alone, change it where it comes from" if error.errno == errno.EBUSY else ""
        raise KeysError(f"cannot change the keys file {path}: {error.strerror}{hint}") from None
    if names > 1:
        logger.warning(
            "the keys file %s is changed under this name alone: servers that use another name of it (a hard"
            " link) go on with the keys of before",
            path,
        )
    try:
        sync_folder(os.path.dirname(path))
    except OSError as error:
        logger.warning("the keys file %s is changed, but a power cut may undo it: %s", path, error.strerror)


def _open_new(path: str) -> int:
    """Make a file as soon as nobody holds one there, and return its descriptor."""
    deadline = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            return create_held(path)
        except FileExistsError:
            if time.monotonic() > deadline:
                raise KeysError(
                    f"{path} exists: another process is changing the keys; try again, or remove it if none is"
                ) from None
            time.sleep(0.02)


def _digest(key: str) -> str:
    import hashlib

    return hashlib.sha256(key.encode()).hexdigest()


def _absolute(path: str | os.PathLike[str]) -> str:
    try:
        return os.path.abspath(path)
    except FileNotFoundError:
        raise KeysError(
            f"cannot find the keys file {path}: the working folder was removed; give an absolute path"
        ) from None


def _state(path: str) -> object:
    """Return what changes when a file does; None if there is none. Raises KeysError."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    if not status.st_nlink:
        # A file that is mounted alone stays what it was, whatever takes its place.
        raise KeysError(
            f"the keys file {path} was replaced, but here it is still the old one: mount its folder"
        )
    return status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino
