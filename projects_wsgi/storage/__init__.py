"""The store: the rules of projects, once, over whatever engine keeps them."""

from __future__ import annotations

import contextlib
import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Callable, NamedTuple, Optional

from .. import model
from ..locations import is_url
from ..model import Project, ProjectKey, ProjectKind, ProjectRow
from ..options import STORE_OPTIONS
from .pool import Loan, Pool, Session

logger = logging.getLogger("projects_wsgi")

# Told of each change once it is committed: "created", "updated" or "deleted", and the project.
OnChange = Callable[[str, Project], object]

# A project on its way in: (id, name, description, kind, created_at, updated_at), of which the times are in
# UTC, such as "2026-01-31T23:59:59.999Z".
Record = tuple[int, str, Optional[str], str, str, str]

# What becomes of a project that comes in under a name that exists.
CONFLICT_RULES = ("fail", "skip", "update")

MAX_ID = 2**63 - 1  # the largest integer of every engine
_MAX_TRIES = 10  # of get_or_create, while others create and delete the same project

# How much is brought in at a time: records (SQLite takes 999 parameters), characters.
_BATCH_RECORDS = 900
_BATCH_SIZE = 1_000_000
_RECORD_SIZE = 50  # characters that a record without texts counts as

_MAX_NAMES_TOLD = 10


class PageQuery(NamedTuple):
    """What a page is to hold: at most limit rows of these kinds, from first_id down.

    folded: text that their folded names hold; "" is any. max_size: characters, after which no more rows
    are used than the next one; None: all are.
    """

    first_id: int
    limit: int
    folded: str
    kinds: Collection[ProjectKind]
    max_size: int | None


class BroughtIn(NamedTuple):
    """What bring_in has done: projects made, updated and skipped, and whether they kept their ids."""

    made: int
    updated: int
    skipped: int
    kept_ids: bool


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
        query = PageQuery(first_id, min(limit, MAX_ID), name_contains.casefold(), wanted, max_size)
        with Loan(self._searchers if query.folded else self._readers, self._busy_timeout) as session:
            # Not kept in a variable: what is left of it must be gone before its connection is lent again.
            return _fetch(self._select_page(session, query), max_size)

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

    def read_all(self) -> Iterator[Project]:
        """Give all projects in order of id, as they were when the first was taken; memory stays flat.

        A connection is lent until the end: where there is only one, nobody else is answered until then, and
        until then SQLite's log grows with what others write.
        """
        with Loan(self._searchers, self._busy_timeout) as session:
            yield from self._select_all(session)

    def last_id(self) -> int:
        """Return the largest id that was ever given, also to a project that is gone."""
        with self._reading() as session:
            return self._last_id(session)

    def version(self) -> object:
        """Return what is another value after every change of whomever; None if the engine cannot tell."""
        return None

    def ping(self) -> None:
        """Return when the store answers; raise StoreError when it does not."""
        with self._reading() as session:
            self._select_row(session, model.DEFAULT_PROJECT_ID)

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
        check_name(name)
        if description is not None:
            check_text("description", description)
        kind = kind_for(name, kind)
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
        check_name(name)
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
        check_text("description", description)
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

    def bring_in(
        self,
        records: Iterable[Record],
        last_id: Callable[[], int],
        *,
        on_conflict: str,
        new_ids: bool,
        dry_run: bool,
        progress: Callable[[int], object] = lambda done: None,
    ) -> BroughtIn:
        """Bring projects in, in one transaction; on_change is not told. See transfer.import_projects.

        records: in order of id, each valid, no name twice, the default project's under its own id and
            name alone; without that, new_ids. last_id: returns the largest id that their source ever gave.
        progress: told how many are done. Raises NamesExist.
        """
        if self._read_only and not dry_run:
            raise model.StoreReadOnly
        made = updated = skipped = 0
        names: list[str] = []  # that exist already, where none may
        pool = self._readers if dry_run else self._writers
        with Loan(pool, self._busy_timeout) as session, contextlib.ExitStack() as stack:
            if not dry_run:
                stack.enter_context(self._bringing_in(session))
            is_fresh = not self._holds_projects(session)
            keeps_ids = is_fresh and not new_ids
            if keeps_ids:
                largest_id = last_id()  # also for a rehearsal, because it may raise
                if not dry_run:
                    self._reserve_ids(session, largest_id)
            for batch, size in _batches(records):
                new, changed, in_the_way = self._compare(session, batch, is_fresh, on_conflict)
                names += in_the_way
                if len(names) >= _MAX_NAMES_TOLD:
                    break
                if not (dry_run or names):
                    count = self._bring_in(session, new, keeps_ids, size) if new else 0
                    if changed:
                        count += self._set_descriptions(session, changed, with_times=is_fresh)
                    if count < len(new) + len(changed):
                        raise model.ChangeForbidden("something in the database kept a project from coming in")
                made += len(new)
                updated += len(changed)
                skipped += len(batch) - len(new) - len(changed)
                progress(made + updated + skipped)
            if names:
                raise model.NamesExist(names[:_MAX_NAMES_TOLD])
        return BroughtIn(made, updated, skipped, keeps_ids)

    def _compare(
        self, session: Session, batch: Sequence[Record], is_fresh: bool, on_conflict: str
    ) -> tuple[list[Record], list[Record], list[str]]:
        """Return which are to be made, which to be changed, and the names that keep all from coming in."""
        names = [model.DEFAULT_PROJECT_NAME] if is_fresh else [record[1] for record in batch]
        descriptions = self._find_descriptions(session, names)
        new = [record for record in batch if record[1] not in descriptions]
        known = [record for record in batch if record[1] in descriptions]
        if is_fresh:  # the one that is known is the default project
            return new, known, []
        if on_conflict == "update":
            return new, [it for it in known if it[2] is not None and it[2] != descriptions[it[1]]], []
        if on_conflict == "fail":
            return new, [], [it[1] for it in known if it[1] != model.DEFAULT_PROJECT_NAME]
        return new, [], []

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
    def _select_page(self, session: Session, query: PageQuery) -> Iterable[ProjectRow]:
        """Return the rows of a page."""

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
    def _select_all(self, session: Session) -> Iterator[Project]:
        """Give all projects in order of id, of one moment, a few at a time."""

    @abstractmethod
    def _last_id(self, session: Session) -> int:
        """Return the largest id that was ever given."""

    # An engine whose changes are of one statement each does without these two.

    def _begin(self, session: Session, growth: int | None) -> None:  # noqa: B027
        """Begin a transaction. growth: characters that it will store; None: it only deletes."""

    def _commit(self, session: Session) -> None:  # noqa: B027
        """End a transaction: when this returns, what it changed is on stable storage."""

    # What bring_in asks of an engine. All is done in one transaction, and nothing is tried again.

    @abstractmethod
    def _bringing_in(self, session: Session) -> AbstractContextManager[object]:
        """Begin a transaction in which nobody else changes projects, and commit it if the block succeeds."""

    @abstractmethod
    def _holds_projects(self, session: Session) -> bool:
        """Tell whether there are projects besides the default one."""

    @abstractmethod
    def _reserve_ids(self, session: Session, last_id: int) -> None:
        """See to it that the next id that is given is larger than this one."""

    @abstractmethod
    def _find_descriptions(self, session: Session, names: Sequence[str]) -> Mapping[str, str | None]:
        """Return the descriptions of the projects that have one of these names."""

    @abstractmethod
    def _bring_in(self, session: Session, records: Sequence[Record], keeps_ids: bool, size: int) -> int:
        """Make projects, with their ids or new ones; return how many were made. size: in characters."""

    @abstractmethod
    def _set_descriptions(self, session: Session, records: Sequence[Record], with_times: bool) -> int:
        """Set the descriptions of projects by their names, with their times or now's; return how many."""


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


def check_text(what: str, value: object) -> None:
    """Raise TypeError unless a project's name or description, which what says, is a text."""
    if not isinstance(value, str):
        raise TypeError(f"a project's {what} must be a str, not {value!r}")


def check_name(name: str) -> None:
    """Raise TypeError or ValueError, which says why, unless a project may have this name."""
    check_text("name", name)
    if not name:
        raise ValueError("a project's name must have at least one character")
    if not isinstance(model.parse_identifier(name), str):
        raise ValueError(f"the name {name!r} reads as a project's id and would address another project")


def kind_for(name: str, kind: ProjectKind | str) -> ProjectKind:
    """Return the kind of which a project of this name is made. Raises ValueError for an unknown one."""
    return ProjectKind.STANDARD if name == model.PLAYGROUND_PROJECT_NAME else ProjectKind(kind)


def unreadable(project_id: object, name: object, error: Exception) -> model.StoreUnavailable:
    """Return what to raise for a row that can be no project: a host must have written it."""
    return model.StoreUnavailable(
        f"the project {project_id} cannot be read, whose name is {name!r:.100}: {error};"
        " put it right in the database"
    )


def _batches(records: Iterable[Record]) -> Iterator[tuple[list[Record], int]]:
    """Give records a few at a time, and the size of their texts in characters."""
    batch: list[Record] = []
    size = 0
    for record in records:
        batch.append(record)
        size += len(record[1]) + len(record[2] or "") + _RECORD_SIZE
        if len(batch) == _BATCH_RECORDS or size >= _BATCH_SIZE:
            yield batch, size
            batch, size = [], 0
    if batch:
        yield batch, size


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
        raise ValueError(
            "the URL of a database must begin with postgresql:// or postgres://, and the path of a file must"
            " not look like one"
        )
    if "synchronous" in options:
        raise ValueError("synchronous is an option of SQLite alone")
    from .postgres import PostgresStore

    return PostgresStore(name, **options)
