"""The store: the rules of projects, once, over whatever engine keeps them."""

from __future__ import annotations

import contextlib
import logging
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable
from typing import Any, Callable

from .. import model
from ..model import Project, ProjectKey, ProjectKind, ProjectRow
from ..options import STORE_OPTIONS
from .pool import Loan, Pool, Session

logger = logging.getLogger("projects_wsgi")

# Told of each change once it is committed: "created", "updated" or "deleted", and the project.
OnChange = Callable[[str, Project], object]

# Whatever looks like one, or like libpq's other way to name a database; but not a drive of Windows.
_URL = re.compile(r"(?![a-z]:)(.*://|\W*postgres[^/]*:|.*\bpassword\s*=)", re.IGNORECASE | re.DOTALL)

MAX_ID = 2**63 - 1  # the largest integer of every engine
_MAX_TRIES = 10  # of get_or_create, while others create and delete the same project


class Store(ABC):
    """Keeps projects: the rules are here, and an engine derived from it is little more than SQL.

    location: where the projects are, as people may read it; never with a password.
    readers, searchers, writers: pools, which may be the same. Searches take long, so they have their own.
    busy_timeout, on_change, read_only: see SQLiteStore.

    Each call is atomic and safe from any thread. A call that returns has its change on stable storage,
    a call that raises has changed nothing, unless it raises OutcomeUnknown. All may raise StoreBusy,
    StoreFull and StoreUnavailable; those that write also StoreReadOnly, and ChangeForbidden where a host's
    own table or trigger forbids it. What is no key (see ProjectKey) raises TypeError, a lone surrogate
    UnicodeEncodeError.
    """

    def __init__(
        self,
        location: str,
        readers: Pool,
        searchers: Pool,
        writers: Pool,
        *,
        busy_timeout: float,
        on_change: OnChange | None,
        read_only: bool,
    ) -> None:
        self.location = location
        self._readers = readers
        self._searchers = searchers
        self._writers = writers
        self._busy_timeout = busy_timeout
        self._on_change = on_change
        self._read_only = read_only

    # Reading

    def list_rows(
        self,
        start_id: int | None = None,
        limit: int = 100,
        name_contains: str = "",
        kinds: Collection[ProjectKind] = (ProjectKind.STANDARD,),
        max_size: int | None = None,
    ) -> list[ProjectRow]:
        """Return one page of projects, newest id first, as (id, name, description) rows.

        start_id: the first id that the page may hold; None: any. limit: rows, > 0.
        name_contains: text that the name holds, compared by Unicode case folding; "" is any.
        max_size: characters; the row after the one that makes the page longer is the last. None: no bound.
        """
        if limit < 1:
            raise ValueError(f"limit must be at least 1 row, not {limit}")
        first_id = MAX_ID if start_id is None else min(start_id, MAX_ID)
        wanted = {ProjectKind(kind) for kind in kinds}
        if first_id < 1 or not wanted:
            return []
        folded = name_contains.casefold()
        with Loan(self._searchers if folded else self._readers, self._busy_timeout) as session:
            # Not kept in a variable: what is left of it must be gone before its connection is lent again.
            return _fetch(
                self._select_page(session, first_id, min(limit, MAX_ID), folded, wanted, max_size), max_size
            )

    def get(self, key: ProjectKey) -> Project:
        """Return the project of a key. Raises ProjectNotFound."""
        with self._reading() as session:
            return self._found(session, key)

    def get_row(self, key: ProjectKey) -> ProjectRow:
        """Return (id, name, description) of a project, sooner than get. Raises ProjectNotFound."""
        with self._reading() as session:
            row = self._select_row(session, _address(key))
        if row is None:
            raise model.ProjectNotFound(key)
        return row

    def version(self) -> object:
        """Return what is another value after every change of whomever; None if the engine cannot tell."""
        return None

    def ping(self) -> None:
        """Return when the store answers; raise StoreError when it does not."""
        with self._reading() as session:
            self._probe(session)

    # Writing

    def create(
        self,
        name: str,
        description: str | None = None,
        kind: ProjectKind | str = ProjectKind.STANDARD,
    ) -> Project:
        """Make a project and return it; one named "playground" is standard whoever makes it.

        Raises ProjectExists; ValueError for a name that is empty or reads as an id (it would address
        another project) and for an unknown kind; TypeError for what is no text.
        """
        _check_name(name)
        if description is not None:
            _check_text("description", description)
        kind = ProjectKind.STANDARD if name == model.PLAYGROUND_PROJECT_NAME else ProjectKind(kind)
        try:
            project = self._create(name, description, kind)
        except model.ChangeForbidden:
            # What an error says is no proof: a host's own constraints use the same words.
            with contextlib.suppress(model.ProjectNotFound), self._reading() as session:
                self._found(session, name)
                raise model.ProjectExists(name) from None
            # Forbidden, unless another project of this name was deleted before it was looked for.
            project = self._create(name, description, kind)
        return self._tell("created", project)

    def _create(self, name: str, description: str | None, kind: ProjectKind) -> Project:
        with self._writing() as session:
            self._begin(session, len(name) + len(description or ""))
            project = self._insert(session, name, name.casefold(), kind, description)
            if project is None:
                raise model.ChangeForbidden(f"something in the database kept {name!r} from being created")
        return project

    def get_or_create(
        self,
        name: str,
        description: str | None = None,
        kind: ProjectKind | str = ProjectKind.STANDARD,
    ) -> tuple[Project, bool]:
        """Return the project of this name, as it is or made by create, and whether this call made it."""
        _check_name(name)
        for _ in range(_MAX_TRIES):
            with contextlib.suppress(model.ProjectNotFound):
                return self.get(name), False
            with contextlib.suppress(model.ProjectExists):
                return self.create(name, description, kind), True
        raise model.StoreBusy(f"others keep creating and deleting the project {name!r}")

    def update(self, key: ProjectKey, description: str | None) -> Project:
        """Set the description and return the project; None leaves it. Raises ProjectNotFound, TypeError."""
        if description is None:
            return self.get(key)
        _check_text("description", description)
        with self._writing() as session:
            self._begin(session, len(description))
            address = _address(key)
            project = self._set_description(session, address, description)
            if project is None:
                self._found(session, key)
                # Kept as it is, unless it was made before it was looked for.
                project = self._set_description(session, address, description)
            if project is None:
                raise model.ChangeForbidden(f"something in the database kept {key!r} from being changed")
        return self._tell("updated", project)

    def delete(self, key: ProjectKey) -> None:
        """Delete the project, and the rows of a host's tables that refer to it with ON DELETE CASCADE.

        Raises ProjectNotFound, DefaultProjectProtected.
        """
        with self._writing() as session:
            self._begin(session, None)
            address = _address(key)
            project = self._remove(session, address)
            if project is None:
                if self._found(session, key).id == model.DEFAULT_PROJECT_ID:
                    raise model.DefaultProjectProtected
                project = self._remove(session, address)
            if project is None:
                raise model.ChangeForbidden(f"something in the database kept {key!r} from being deleted")
        self._tell("deleted", project)

    def close(self) -> None:
        """Give back all that the store holds open; later calls raise StoreUnavailable."""
        for pool in (self._readers, self._searchers, self._writers):
            pool.close()

    # What the rules share

    def _reading(self) -> Loan:
        return Loan(self._readers, self._busy_timeout)

    def _writing(self) -> _Transaction:
        if self._read_only:
            raise model.StoreReadOnly
        return _Transaction(self._writers, self._busy_timeout, self._commit)

    def _found(self, session: Session, key: ProjectKey) -> Project:
        project = self._select(session, _address(key))
        if project is None:
            raise model.ProjectNotFound(key)
        return project

    def _tell(self, event: str, project: Project) -> Project:
        if self._on_change is not None:
            try:
                self._on_change(event, project)
            except Exception:
                logger.exception("on_change failed for %s %.800r", event, project)
        return project

    # What an engine does. A key is an id (0 addresses nothing) or a name.

    @abstractmethod
    def _select_page(
        self,
        session: Session,
        first_id: int,
        limit: int,
        folded: str,
        kinds: Collection[ProjectKind],
        max_size: int | None,
    ) -> Iterable[ProjectRow]:
        """Return rows of these kinds, from first_id down, whose folded names hold the text.

        max_size: characters, after which no more rows will be used; None: all will.
        """

    @abstractmethod
    def _select_row(self, session: Session, key: int | str) -> ProjectRow | None:
        """Return the row of a project, None if there is none."""

    @abstractmethod
    def _select(self, session: Session, key: int | str) -> Project | None:
        """Return a project, None if there is none."""

    @abstractmethod
    def _insert(
        self, session: Session, name: str, folded: str, kind: ProjectKind, description: str | None
    ) -> Project | None:
        """Make a project and return it as it is now; None if none of this name was made."""

    @abstractmethod
    def _set_description(self, session: Session, key: int | str, description: str) -> Project | None:
        """Set a description and the time of it; return the project as it is now, None if none was changed."""

    @abstractmethod
    def _remove(self, session: Session, key: int | str) -> Project | None:
        """Delete a project, but never the default one; return it as it was, None if none was deleted."""

    @abstractmethod
    def _begin(self, session: Session, growth: int | None) -> None:
        """Begin a transaction. growth: characters that it will store; None: it only deletes."""

    @abstractmethod
    def _commit(self, session: Session) -> None:
        """End a transaction: when this returns, what it changed is on stable storage."""

    @abstractmethod
    def _probe(self, session: Session) -> None:
        """Raise unless the projects can be read."""


class _Transaction(Loan):
    """A session in which a transaction is begun, and committed at the end of the block.

    A generator would be shorter; but an error that it replaces lives on in a cycle from Python 3.12 on.
    """

    __slots__ = ("_commit",)

    def __init__(self, pool: Pool, patience: float, commit: Callable[[Session], None]) -> None:
        super().__init__(pool, patience)
        self._commit = commit

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        try:
            if error is None:
                self._commit(self)
        except BaseException as failure:
            super().__exit__(kind, failure, traceback)
            raise
        super().__exit__(kind, error, traceback)


def _fetch(rows: Iterable[ProjectRow], max_size: int | None) -> list[ProjectRow]:
    """Fetch all rows, or as many as max_size characters need and the one after them."""
    if max_size is None:
        return list(rows)
    fetched: list[ProjectRow] = []
    size = 0
    for row in rows:
        fetched.append(row)
        if size > max_size:
            break
        size += len(row[1]) + len(row[2] or "")
    return fetched


def _address(key: ProjectKey) -> int | str:
    address = model.resolve_key(key)
    return address if isinstance(address, str) or 0 < address <= MAX_ID else 0


def _check_text(what: str, value: object) -> None:
    if not isinstance(value, str):
        raise TypeError(f"a project's {what} must be a str, not {value!r}")


def _check_name(name: str) -> None:
    _check_text("name", name)
    if not name:
        raise ValueError("a project's name must have at least one character")
    if not isinstance(model.parse_identifier(name), str):
        raise ValueError(f"the name {name!r} reads as a project's id and would address another project")


def is_url(name: str) -> bool:
    """Tell whether a database's name is a URL and no path."""
    return _URL.match(name) is not None


def open_store(database: str | os.PathLike[str], **options: Any) -> Store:
    """Open the store that a name means: the path of an SQLite file, ":memory:", or a postgresql:// URL.

    options: see SQLiteStore and PostgresStore, which raise what this does; and ValueError for an option
    that the other engine alone has, or a URL that means neither.
    """
    name = os.fspath(database)
    engine = "PostgreSQL" if is_url(name) else "SQLite"
    for option in STORE_OPTIONS:
        if option.engine not in ("", engine) and options.pop(option.name, option.default) != option.default:
            raise ValueError(f"{option.name} is an option of {option.engine} alone")
    if engine == "SQLite":
        from .sqlite import SQLiteStore  # which derives from what stands here

        return SQLiteStore(name, **options)
    # A URL is never shown, because it may hold a password.
    if not name.startswith(("postgresql://", "postgres://")):
        raise ValueError("the URL of a database must begin with postgresql:// or postgres://")
    if "synchronous" in options:
        raise ValueError("synchronous is an option of SQLite alone")
    from .postgres import PostgresStore

    return PostgresStore(name, **options)
