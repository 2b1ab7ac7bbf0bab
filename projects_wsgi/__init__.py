"""The projects API of Arize Phoenix as one WSGI callable without dependencies.

>>> from projects_wsgi import make_app
>>> application = make_app("projects.db")
"""

from __future__ import annotations

import os

from .app import ProjectsApp
from .auth import Authenticate, KeysError, Role
from .model import (
    ChangeForbidden,
    DefaultProjectProtected,
    Project,
    ProjectExists,
    ProjectKey,
    ProjectKind,
    ProjectNotFound,
    ProjectRow,
    ProjectsError,
    StoreBusy,
    StoreError,
    StoreFull,
    StoreReadOnly,
    StoreUnavailable,
)
from .options import BUSY_TIMEOUT
from .storage import OnChange, Store, open_store
from .storage.sqlite import SQLiteStore
from .wire import PHOENIX_VERSION

__version__ = "0.1.0"

__all__ = [
    "ChangeForbidden",
    "DefaultProjectProtected",
    "KeysError",
    "Project",
    "ProjectExists",
    "ProjectKey",
    "ProjectKind",
    "ProjectNotFound",
    "ProjectRow",
    "ProjectsApp",
    "ProjectsError",
    "Role",
    "SQLiteStore",
    "Store",
    "StoreBusy",
    "StoreError",
    "StoreFull",
    "StoreReadOnly",
    "StoreUnavailable",
    "__version__",
    "make_app",
]


def make_app(
    database: str | os.PathLike[str] | Store,
    *,
    max_page_size: int = 10_000,
    max_body_size: int = 1_048_576,
    busy_timeout: float = BUSY_TIMEOUT.default,
    max_database_size: int | None = None,
    on_change: OnChange | None = None,
    read_only: bool = False,
    keys: str | os.PathLike[str] | None = None,
    admin_secret: str | None = None,
    authenticate: Authenticate | None = None,
    phoenix_version: str = PHOENIX_VERSION,
) -> ProjectsApp:
    """Return the projects API as a WSGI callable.

    database: the path of an SQLite file, made if missing; ":memory:"; or a Store.
    max_page_size: rows, > 0; the longest page, whatever limit a client asks for.
    max_body_size: bytes, > 0; a longer body is answered with 413, unread.
    busy_timeout: seconds, > 0 and <= 25; a call that others keep from the database for longer is
        answered with 503.
    max_database_size: bytes, >= 65,536; what would make the file larger is answered with 507.
        None: as large as the disk.
    on_change: called with "created", "updated" or "deleted" and the project, in the thread that made
        the change, after it is committed, be it through the API or the store; what it raises is
        logged and changes nothing.
    read_only: whether what would change something is answered with 403. The database is then opened
        for reading only, and neither made nor upgraded; a Store is used as it comes.
    keys: the path of a keys file, which says who may do what: see keys. None: everybody may all.
    admin_secret: a key of an admin's besides, of at least 32 characters, with a digit and a
        lower-case letter.
    authenticate: the host's own way instead of keys: takes the environ; returns "viewer", "member",
        "admin", or None for a sender that is not known. Whatever it raises, nobody is let in.
    phoenix_version: the Phoenix to pass for, three integers; clients gate features on it.
    Raises StoreUnavailable or StoreBusy when the database cannot be opened; KeysError when the keys
    cannot be read; TypeError or ValueError for an argument that is not what it should be, and for
    those of the database where a Store comes with its own.

    The callable's ``store`` is the store, for the host's own use.
    """
    needs_key = keys is not None or admin_secret is not None
    if needs_key:
        if authenticate is not None:
            raise TypeError("give either keys and admin_secret, or authenticate")
        from .keys import KeyRing  # it takes modules that only those need who ask for it

        authenticate = KeyRing(keys, admin_secret)
    if isinstance(database, (str, os.PathLike)):
        store = open_store(
            database,
            busy_timeout=busy_timeout,
            max_database_size=max_database_size,
            on_change=on_change,
            read_only=read_only,
        )
    elif isinstance(database, Store):
        if (busy_timeout, max_database_size, on_change) != (BUSY_TIMEOUT.default, None, None):
            raise TypeError(
                "give busy_timeout, max_database_size and on_change to the Store, where it is made"
            )
        store = database
    else:
        raise TypeError(f'database must be a path, ":memory:" or a Store, not {database!r}')
    try:
        return ProjectsApp(
            store,
            max_page_size=max_page_size,
            max_body_size=max_body_size,
            phoenix_version=phoenix_version,
            read_only=read_only,
            authenticate=authenticate,
            needs_key=needs_key,
        )
    except ValueError:
        if store is not database:
            store.close()
        raise
