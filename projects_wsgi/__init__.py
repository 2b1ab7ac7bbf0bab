"""The projects API of Arize Phoenix as one WSGI callable without dependencies.

>>> from projects_wsgi import make_app
>>> application = make_app("projects.db")
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Collection

if sys.version_info < (3, 9):  # noqa: UP036 (whoever uses no pip is told here)
    raise ImportError("projects_wsgi needs Python 3.9 or later")

# The public names are imported "as" themselves.
from .app import ProjectsApp as ProjectsApp
from .auth import Authenticate
from .auth import KeysError as KeysError
from .auth import Role as Role
from .keys import KeyRing
from .model import ChangeForbidden as ChangeForbidden
from .model import DefaultProjectProtected as DefaultProjectProtected
from .model import OutcomeUnknown as OutcomeUnknown
from .model import Project as Project
from .model import ProjectExists as ProjectExists
from .model import ProjectKey as ProjectKey
from .model import ProjectKind as ProjectKind
from .model import ProjectNotFound as ProjectNotFound
from .model import ProjectRow as ProjectRow
from .model import ProjectsError as ProjectsError
from .model import StoreBusy as StoreBusy
from .model import StoreError as StoreError
from .model import StoreFull as StoreFull
from .model import StoreReadOnly as StoreReadOnly
from .model import StoreUnavailable as StoreUnavailable
from .options import (
    ALLOWED_ORIGINS,
    BUSY_TIMEOUT,
    MAX_BODY_SIZE,
    MAX_CONNECTIONS,
    MAX_DATABASE_SIZE,
    MAX_PAGE_BYTES,
    MAX_PAGE_SIZE,
    SCHEMA,
    STORE_OPTIONS,
)
from .origins import ANY, Origins
from .storage import OnChange, open_store
from .storage import Store as Store
from .storage.sqlite import SQLiteStore as SQLiteStore
from .wire import PHOENIX_VERSION, VERSION_HEADER, VERSION_PATTERN

__version__ = "0.2.0"


def make_app(
    database: str | os.PathLike[str] | Store,
    *,
    max_page_size: int = MAX_PAGE_SIZE.default,
    max_page_bytes: int = MAX_PAGE_BYTES.default,
    max_body_size: int = MAX_BODY_SIZE.default,
    busy_timeout: float = BUSY_TIMEOUT.default,
    max_database_size: int | None = MAX_DATABASE_SIZE.default,
    schema: str | None = SCHEMA.default,
    max_connections: int = MAX_CONNECTIONS.default,
    on_change: OnChange | None = None,
    read_only: bool = False,
    keys: str | os.PathLike[str] | None = None,
    admin_secret: str | None = None,
    authenticate: Authenticate | None = None,
    allowed_origins: Collection[str] | None = ALLOWED_ORIGINS.default,
    page: bool = True,
    phoenix_version: str = PHOENIX_VERSION,
) -> ProjectsApp:
    """Return the projects API as a WSGI callable, whose ``store`` is for the host's own use.

    database: the path of an SQLite file, ":memory:", the postgresql:// URL of a database, or a Store.
    max_page_size: rows, > 0; the longest page, whatever limit a client asks for.
    max_page_bytes: bytes, > 0; a page ends early with the project that makes it longer.
    max_body_size: bytes, > 0; a longer body is answered with 413, unread.
    busy_timeout, max_database_size, on_change: see SQLiteStore; a Store has its own.
    schema, max_connections: for PostgreSQL; see PostgresStore in storage/postgres.
    read_only: whether every change is answered with 403. The database is then neither made nor upgraded.
    keys, admin_secret: see KeyRing. Without both, and without authenticate, everybody may do everything.
    authenticate: the host's own check, instead of keys: takes the environ, returns "viewer",
        "member", "admin", or None for a stranger. Whatever it raises, nobody is let in. For logs, it
        may leave the sender's name in environ["projects_wsgi.user"], as keys do.
    allowed_origins: those whose web pages may use the API from a browser (CORS), like
        "https://app.example"; "*" is all, and only without keys and authenticate.
    page: whether there is a page for people, at the root or the bare mount point.
    phoenix_version: the Phoenix version to report, three integers; clients choose features by it.
    Raises StoreUnavailable or StoreBusy when the database cannot be opened; KeysError when the keys
    cannot be read; TypeError or ValueError for a wrong argument, before anything is opened.
    """
    MAX_PAGE_SIZE.check(max_page_size)
    MAX_PAGE_BYTES.check(max_page_bytes)
    MAX_BODY_SIZE.check(max_body_size)
    ALLOWED_ORIGINS.check(allowed_origins)
    if not re.fullmatch(VERSION_PATTERN, phoenix_version):
        raise ValueError(f'phoenix_version must be like "20.26.1", not {phoenix_version!r}')
    needs_key = keys is not None or admin_secret is not None
    if ANY in (allowed_origins or ()) and (needs_key or authenticate is not None):
        raise ValueError(
            "with keys, allowed_origins must name each origin: * would let any web page try them"
        )
    if needs_key:
        if authenticate is not None:
            raise TypeError("give either keys and admin_secret, or authenticate")
        authenticate = KeyRing(keys, admin_secret)
    options = {
        "busy_timeout": busy_timeout,
        "max_database_size": max_database_size,
        "schema": schema,
        "max_connections": max_connections,
        "on_change": on_change,
    }
    if isinstance(database, (str, os.PathLike)):
        store = open_store(database, read_only=read_only, **options)
    elif not isinstance(database, Store):
        # Not shown: it may be a URL with a password.
        raise TypeError(
            f'database must be a path, ":memory:", a URL or a Store, not {type(database).__name__}'
        )
    elif on_change is not None or any(options[option.name] != option.default for option in STORE_OPTIONS):
        raise TypeError(f"give {', '.join(options)} to the Store, where it is made")
    else:
        store = database
    return ProjectsApp(
        store,
        max_page_size=max_page_size,
        max_page_bytes=max_page_bytes,
        max_body_size=max_body_size,
        phoenix_version=phoenix_version,
        read_only=read_only,
        authenticate=authenticate,
        origins=Origins(allowed_origins, VERSION_HEADER) if allowed_origins else None,
        has_page=page,
    )
