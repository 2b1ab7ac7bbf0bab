"""The seam between the application and whatever keeps the projects."""

from __future__ import annotations

import os
from collections.abc import Collection
from typing import Callable, Protocol

from ..model import Project, ProjectExists, ProjectKey, ProjectKind, ProjectNotFound, ProjectRow

DEFAULT_BUSY_TIMEOUT = 5.0
MAX_BUSY_TIMEOUT = 25.0  # seconds; the official clients give up after 30
MIN_DATABASE_SIZE = 65_536  # bytes, of which a fresh file takes half


# Told of each change once it is committed: "created", "updated" or "deleted", and the project.
OnChange = Callable[[str, Project], object]


class Store(Protocol):
    """Keeps projects: every engine holds these promises and passes the same tests.

    Each call is atomic and safe from any thread. A call that returns has its change on stable
    storage, a call that raises has changed nothing. Besides what is named at each method, all may
    raise StoreBusy (503), StoreFull (507) and StoreUnavailable (503), and all that write
    ChangeForbidden (409), where a host's own table or trigger stands against it, and StoreReadOnly
    (403). A string with lone surrogates, which no request can hold by then, is refused with
    UnicodeEncodeError.
    """

    def list_rows(
        self,
        start_id: int | None = None,
        limit: int = 100,
        name_contains: str = "",
        kinds: Collection[ProjectKind] = (ProjectKind.STANDARD,),
    ) -> list[ProjectRow]:
        """Return one page of projects, newest id first, as (id, name, description) rows.

        start_id: the page begins at the first id that is at most this; None: at the newest.
        limit: rows, > 0.
        name_contains: text that the name holds, compared by Unicode case folding; "" is any.
        kinds: the kinds to list.
        """
        ...

    def get(self, key: ProjectKey) -> Project:
        """Return the project with this id (int) or name (str). Raises ProjectNotFound (404)."""
        ...

    def create(
        self,
        name: str,
        description: str | None = None,
        kind: ProjectKind | str = ProjectKind.STANDARD,
    ) -> Project:
        """Make a project and return it.

        name: at least one character; a project named "playground" is standard whoever makes it.
        Raises ProjectExists (409); ValueError when the name is empty or the kind unknown.
        """
        ...

    def update(self, key: ProjectKey, description: str | None) -> Project:
        """Set the description and return the project; None leaves it as it is.

        Raises ProjectNotFound (404).
        """
        ...

    def delete(self, key: ProjectKey) -> None:
        """Delete the project and, with it, all rows that refer to it with ON DELETE CASCADE.

        Raises ProjectNotFound (404), DefaultProjectProtected (403).
        """
        ...

    def ping(self) -> None:
        """Return when the store answers; raise StoreError (503) when it does not."""
        ...

    def close(self) -> None:
        """Give back all that the store holds open; later calls raise StoreUnavailable."""
        ...

    def get_or_create(
        self,
        name: str,
        description: str | None = None,
        kind: ProjectKind | str = ProjectKind.STANDARD,
    ) -> tuple[Project, bool]:
        """Return the project of this name, and whether this call made it.

        An existing project is returned as it is: description and kind serve only a new one.
        """
        while True:
            try:
                return self.get(name), False
            except ProjectNotFound:
                pass
            try:
                return self.create(name, description, kind), True
            except ProjectExists:
                # Somebody else was faster: theirs is the one to get.
                pass


def open_store(
    database: str | os.PathLike[str],
    *,
    busy_timeout: float = DEFAULT_BUSY_TIMEOUT,
    max_database_size: int | None = None,
    on_change: OnChange | None = None,
    read_only: bool = False,
) -> Store:
    """Open the store that a database name means.

    database: the path of an SQLite file, made if missing, or ":memory:".
    busy_timeout: seconds, > 0 and <= 25. max_database_size: bytes, >= 65,536; None: any.
    on_change, read_only: see SQLiteStore.
    Raises StoreUnavailable when it cannot be opened; StoreBusy when others keep it locked;
    ValueError for a number out of its range.
    """
    from .sqlite import SQLiteStore

    return SQLiteStore(
        database,
        busy_timeout=busy_timeout,
        max_database_size=max_database_size,
        on_change=on_change,
        read_only=read_only,
    )
