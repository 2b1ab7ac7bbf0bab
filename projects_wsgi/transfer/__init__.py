"""Projects move in and out, all or nothing, with their ids, kinds and times."""

from __future__ import annotations

import sqlite3
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from typing import BinaryIO, Callable, NamedTuple, Optional

from ..model import (
    DEFAULT_PROJECT_ID,
    DEFAULT_PROJECT_NAME,
    Project,
    ProjectsInvalid,
    SourceUnavailable,
    StoreError,
    StoreFull,
    StoreUnavailable,
)
from ..storage import CONFLICT_RULES, Record, Store, check_name, check_text, kind_for
from .lines import Incoming, parse_time, render_line
from .sources import Source
from .sources import open_source as open_source  # a part of what this package offers

# Told now and then how many projects are done, and how many there are; None: nobody knows yet.
Progress = Callable[[int, Optional[int]], object]

_STEP = 1_000  # projects, after which progress is told
_MAX_REASONS = 100  # that are told
_MAX_REASON_LENGTH = 300
_LARGEST_ID = 2**62  # above which as many are left for later
_CACHE_KIB = 65_536


class Report(NamedTuple):
    """What an import did, or would do: projects made, updated, skipped, and left out as invalid.

    kept_ids: whether those that were made have the ids that they had. reasons: of those that were left out,
    the first ones'.
    """

    made: int
    updated: int
    skipped: int
    invalid: int
    kept_ids: bool
    reasons: list[str]


def export_projects(store: Store) -> Iterator[Project]:
    """Give all projects in order of id, as they were at one moment; see Store.read_all."""
    return store.read_all()


def write_lines(store: Store, file: BinaryIO) -> int:
    """Write all projects of a store to a file, as lines of JSON; return how many."""
    count = 0
    for project in export_projects(store):
        file.write(render_line(project))
        count += 1
    return count


def import_projects(
    store: Store,
    projects: Iterable[Project] | Source,
    *,
    on_conflict: str = "fail",
    new_ids: bool = False,
    skip_invalid: bool = False,
    dry_run: bool = False,
    progress: Progress = lambda done, total: None,
) -> Report:
    """Bring projects in, in one transaction: all of them or none. on_change is not told.

    projects: read to their end before the database is touched, into a temporary file. Ids are kept if the
        store holds nothing but its default project, and later ids are larger than these and than all that
        a source notes as given; otherwise, and with new_ids, new ones are given in order of the old.
    on_conflict: what becomes of a project whose name exists: "fail" (none is brought in), "skip", or
        "update" (its description is set, unless it comes without one). The default project, which every
        store holds, gets description and times where ids might be kept; elsewhere only "update" changes it.
    skip_invalid: whether to leave out what cannot be kept here. dry_run: whether to change nothing.
    Raises NamesExist, ProjectsInvalid, SourceUnavailable, and what Store.create does.
    """
    if on_conflict not in CONFLICT_RULES:
        raise ValueError(f"on_conflict must be one of {', '.join(CONFLICT_RULES)}, not {on_conflict!r}")
    if not isinstance(projects, Source):
        projects = Source("project", enumerate(projects, 1))
    with closing(Stage(projects, new_ids=new_ids, progress=progress)) as stage:
        stage.fill(skip_invalid=skip_invalid)
        return stage.bring_into(store, on_conflict=on_conflict, dry_run=dry_run)


class Stage:
    """A temporary file in which projects are checked and put in order, while no database is in use yet.

    See import_projects, for which it is made, filled, brought into a store, and closed.
    """

    def __init__(self, source: Source, *, new_ids: bool, progress: Progress) -> None:
        self._source = source
        self._new_ids = new_ids
        self._progress = progress
        self._reasons: list[str] = []
        self._invalid = 0
        self._connection = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._connection.execute("PRAGMA journal_mode = MEMORY")
        self._connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        self._connection.execute(
            f"CREATE TABLE staged (id INTEGER {'' if new_ids else 'PRIMARY KEY'}, name TEXT UNIQUE,"
            " description TEXT, kind TEXT, created_at TEXT, updated_at TEXT)"
        )
        self._connection.execute("BEGIN")

    def close(self) -> None:
        """Remove the file."""
        self._connection.close()

    def fill(self, *, skip_invalid: bool) -> None:
        """Read the source to its end. Raises ProjectsInvalid, SourceUnavailable, StoreError."""
        for count, (number, incoming) in enumerate(self._source.numbered, 1):
            reason = incoming if isinstance(incoming, str) else self._add(incoming)
            if reason is not None:
                self._invalid += 1
                if self._invalid <= _MAX_REASONS:
                    self._reasons.append(f"{self._source.noun} {number}: {reason}"[:_MAX_REASON_LENGTH])
            if count % _STEP == 0:
                self._progress(count, None)
        if self._invalid and not skip_invalid:
            raise ProjectsInvalid(self._reasons, self._invalid)

    def bring_into(self, store: Store, *, on_conflict: str, dry_run: bool) -> Report:
        """Bring what was read into a store. Raises NamesExist, and what Store.create does."""
        count, largest_id = self._connection.execute("SELECT count(*), max(id) FROM staged").fetchone()
        with closing(self._records()) as records:
            made, updated, skipped, kept_ids = store.bring_in(
                records,
                lambda: self._last_id(largest_id or 0),
                on_conflict=on_conflict,
                new_ids=self._new_ids,
                dry_run=dry_run,
                progress=lambda done: self._progress(done, count),
            )
        return Report(made, updated, skipped, self._invalid, kept_ids, self._reasons)

    def _last_id(self, largest_id: int) -> int:
        """Return the largest id that the source ever gave. largest_id: of what was read."""
        last_id = max(largest_id, self._source.last_id())
        if last_id > _LARGEST_ID:
            raise SourceUnavailable(
                f"the source has given ids up to {last_id}, which leaves too few for later: give all"
                " projects new ids, with --new-ids or new_ids"
            )
        return last_id

    def _add(self, incoming: Incoming) -> str | None:
        """Take a project in; if it cannot be kept here, say why."""
        project_id, name, description, kind, *times = incoming
        try:
            check_name(name)
            if description is not None:
                check_text("description", description)
            if not (type(project_id) is int and 0 < project_id <= _LARGEST_ID):
                raise ValueError(f"{project_id!r} is the id of no project")
            if (project_id == DEFAULT_PROJECT_ID) != (name == DEFAULT_PROJECT_NAME) and not self._new_ids:
                raise ValueError(
                    f"the default project's name is {DEFAULT_PROJECT_NAME!r} and its id {DEFAULT_PROJECT_ID}"
                    " here; new ids would do"
                )
            kind = kind_for(name, kind).value
            row = (project_id, name, description, kind, *map(parse_time, times))
            self._connection.execute("INSERT INTO staged VALUES (?, ?, ?, ?, ?, ?)", row)
        except UnicodeEncodeError:
            return "half of a surrogate pair is no character"
        except (TypeError, ValueError) as error:
            return str(error)
        except sqlite3.IntegrityError as error:
            return f"its {str(error).rpartition('.')[2]} is that of another one before it"
        except sqlite3.Error as error:
            raise _translated(error) from error
        return None

    def _records(self) -> Generator[Record, None, None]:
        """Give the projects in order of id."""
        try:
            with closing(self._connection.execute("SELECT * FROM staged ORDER BY id, rowid")) as rows:
                yield from rows
        except sqlite3.Error as error:
            raise _translated(error) from error


def _translated(error: sqlite3.Error) -> StoreError:
    if "is full" in str(error):
        return StoreFull("there is no room for a temporary file; TMPDIR says where it is made")
    return StoreUnavailable(f"cannot use a temporary file: {error}")
