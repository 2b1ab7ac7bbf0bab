"""Reads the projects in any SQLite file that holds some, a Phoenix's too, and leaves it as it was."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import closing
from typing import Any

from ...model import (
    DEFAULT_PROJECT_ID,
    PLAYGROUND_PROJECT_NAME,
    ProjectKind,
    StoreError,
    StoreFull,
    StoreUnavailable,
)
from ..pool import Session
from .database import READ, READ_UNCHANGING, Database, size_of
from .file import opened, real_path
from .log import read_header
from .schema import columns_of, last_id

_HEADER = b"SQLite format 3\0"  # with which every such file begins

_LOG_MODE = b"\2\2"  # at 18 in the header (sqlite.org/fileformat2.html, 1.3)

# (id, name, description, kind, created_at, updated_at), of whatever types the file holds.
ForeignRow = tuple[Any, Any, Any, Any, Any, Any]


def is_database(path: str) -> bool:
    """Tell whether a file is SQLite's."""
    return os.path.isfile(path) and read_header(path).startswith(_HEADER)


@contextlib.contextmanager
def read_file(path: str) -> Iterator[tuple[int, Iterator[ForeignRow]]]:
    """Give the largest id that a file has ever given, and its projects in order of id. Raises StoreError."""
    path = real_path(path)
    with contextlib.ExitStack() as stack:
        mode, copy = READ, None
        has_log = read_header(path)[18:20] == _LOG_MODE
        if has_log and not (os.path.exists(f"{path}-wal") and os.path.exists(f"{path}-shm")):
            # SQLite would make both.
            mode = READ_UNCHANGING
            if size_of(f"{path}-wal"):
                # Nobody has it open, and to read its log means to write beside it.
                mode, copy = READ, stack.enter_context(_copied(path))
        session = stack.enter_context(opened(path, mode, copy))
        # What is no UTF-8 is found when it is looked at.
        session.connection.text_factory = functools.partial(str, encoding="utf-8", errors="surrogateescape")
        session.execute("BEGIN")
        yield last_id(session), _select(session, path)


@contextlib.contextmanager
def _copied(path: str) -> Iterator[str]:
    """Give the path of a copy of a file and its log, which are as they were at one moment."""
    source = Database(path)
    source.take_for_unchanging()
    with contextlib.ExitStack() as stack:
        try:
            copy = os.path.join(stack.enter_context(tempfile.TemporaryDirectory()), "copy")
            for suffix in ("", "-wal"):
                shutil.copyfile(f"{path}{suffix}", f"{copy}{suffix}")
        except OSError as error:
            source.check_unchanged()
            raise _translated(error, path) from error
        source.check_unchanged()
        yield copy


def _translated(error: OSError, path: str) -> StoreError:
    """Return the error for one that kept a file and its log from being copied."""
    if error.errno == errno.ENOSPC:
        return StoreFull(f"there is no room to copy {path} to a temporary file; TMPDIR says where it is made")
    if error.filename in (path, f"{path}-wal") and error.filename2 is None:
        return StoreUnavailable(f"cannot read {error.filename}: {error.strerror}")
    return StoreUnavailable(
        f"cannot copy {path} to a temporary file: {error.strerror}; TMPDIR says where it is made"
    )


def _select(session: Session, path: str) -> Iterator[ForeignRow]:
    columns = columns_of(session, "projects")
    if not columns >= {"id", "name"}:
        raise StoreUnavailable(f"the database {path} holds no projects, neither Phoenix's nor ours")
    parts = [name if name in columns else "NULL" for name in ("description", "created_at", "updated_at")]
    parts.insert(1, "kind" if "kind" in columns else _kind(session))
    with closing(session.execute(f"SELECT id, name, {', '.join(parts)} FROM projects ORDER BY id")) as rows:
        yield from rows
    session.driver.check_unchanged()


def _kind(session: Session) -> str:
    """Return an expression for a project's kind, which Phoenix tells from what refers to it."""
    cases = [f"WHEN name = '{PLAYGROUND_PROJECT_NAME}' OR id = {DEFAULT_PROJECT_ID} THEN 'standard'"]
    for table, column, own, kind in (
        ("experiments", "project_name", "name", ProjectKind.EXPERIMENT),
        ("dataset_evaluators", "project_id", "id", ProjectKind.DATASET_EVALUATOR),
    ):
        if column in columns_of(session, table):
            cases.append(f"WHEN {own} IN (SELECT {column} FROM {table}) THEN '{kind.value}'")
    return f"CASE {' '.join(cases)} ELSE 'standard' END"
