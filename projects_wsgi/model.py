"""The domain: projects, their kinds and ids, and the errors that a store raises."""

from __future__ import annotations

import datetime
import enum
from binascii import a2b_base64, b2a_base64
from typing import NamedTuple, Optional, Union

# The project that every store holds from the start and never loses.
DEFAULT_PROJECT_ID = 1
DEFAULT_PROJECT_NAME = "default"

# Phoenix keeps the runs of its playground here and always lists it.
PLAYGROUND_PROJECT_NAME = "playground"


class ProjectKind(str, enum.Enum):
    """What made a project. The members are strings: ``"experiment"`` will do for EXPERIMENT."""

    STANDARD = "standard"
    EXPERIMENT = "experiment"
    DATASET_EVALUATOR = "dataset_evaluator"


# (id, name, description). Not a Project, because making those would take a tenth of a page's time.
ProjectRow = tuple[int, str, Optional[str]]


class Project(NamedTuple):
    """A project as it was when it was read; immutable.

    id: > 0, never used for another project. name: unique, case-sensitive, never changed.
    created_at, updated_at: aware, in UTC; updated_at is when the description was last set.
    """

    id: int
    name: str
    description: Optional[str]  # noqa: UP045 (Python 3.9 evaluates it)
    kind: ProjectKind
    created_at: datetime.datetime
    updated_at: datetime.datetime

    @property
    def global_id(self) -> str:
        """The id as the API spells it."""
        return render_global_id(self.id)


# Addresses one project: itself, its id, or a text, which is an id if it reads as the global id of a
# project, and otherwise a name.
ProjectKey = Union[Project, int, str]


def render_global_id(project_id: int) -> str:
    """Return the id of a project as the API spells it: 1 is "UHJvamVjdDox"."""
    return b2a_base64(b"Project:%d" % project_id, newline=False).decode()


def parse_global_id(text: str) -> tuple[str, int]:
    """Return the type and the integer of a global id; raise ValueError if it is none.

    As in Phoenix, base64 is read leniently, and the integer as Python reads it.
    """
    type_name, _, number = a2b_base64(text.encode()).decode().partition(":")
    return type_name, int(number)


def parse_identifier(text: str) -> int | str:
    """Return what a text addresses: an id if it reads as the global id of a project, else a name."""
    if "U" in text:  # with which "Project:" begins in base64
        try:
            type_name, number = parse_global_id(text)
        except ValueError:
            return text
        if type_name == "Project":
            return number
    return text


def resolve_key(key: ProjectKey) -> int | str:
    """Return the id (int) or the name (str) that a key addresses. Raises TypeError for what is no key."""
    if isinstance(key, str):
        return parse_identifier(key)
    if isinstance(key, Project):
        return key.id
    if isinstance(key, int) and not isinstance(key, bool):
        return key
    raise TypeError(f"a project is addressed by a Project, an int or a str, not by {key!r}")


class ProjectsError(Exception):
    """The root of every error that this package raises on purpose.

    Its text is one line that can be printed: it may quote a database, and that a client.
    """

    def __str__(self) -> str:
        text = super().__str__()
        return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)


class ProjectNotFound(ProjectsError):
    """No project has this id or name. key: what was asked for. addressed_by: "ID" or "name"."""

    def __init__(self, key: ProjectKey) -> None:
        self.key = key
        self.addressed_by = "name" if isinstance(resolve_key(key), str) else "ID"
        super().__init__(f"no project has the {self.addressed_by} {key!r}")


class ProjectExists(ProjectsError):
    """Another project has this name already."""

    def __init__(self, name: str) -> None:
        super().__init__(f"a project named {name!r} already exists")
        self.name = name


class NamesExist(ProjectsError):
    """Projects that were to be brought in have names of others. names: the first of them."""

    def __init__(self, names: list[str]) -> None:
        super().__init__(f"there are projects of these names already: {', '.join(map(repr, names))}")
        self.names = names


class ProjectsInvalid(ProjectsError):
    """Projects that were to be brought in cannot be kept here. reasons: of the first; count: of all."""

    def __init__(self, reasons: list[str], count: int) -> None:
        super().__init__(f"{count} of the projects cannot be kept here: {'; '.join(reasons)}")
        self.reasons = reasons
        self.count = count


class SourceUnavailable(ProjectsError):
    """What projects are to be brought in from cannot be read, or not to its end."""


class ChangeForbidden(ProjectsError):
    """A constraint or trigger of the host's own, in the same database, forbids the change."""


class DefaultProjectProtected(ProjectsError):
    """The default project can be described but never deleted."""

    def __init__(self) -> None:
        super().__init__("the default project cannot be deleted")


class StoreReadOnly(ProjectsError):
    """The store was opened for reading only."""

    def __init__(self) -> None:
        super().__init__("the store is read-only")


class StoreError(ProjectsError):
    """The store could not do its part; nothing was changed, unless it is OutcomeUnknown."""


class StoreBusy(StoreError):
    """Others kept the store for longer than the busy timeout; the same call may succeed later."""


class StoreFull(StoreError):
    """There is no room left to write."""


class StoreUnavailable(StoreError):
    """The store cannot be opened, read or written."""


class OutcomeUnknown(StoreUnavailable):
    """The connection was lost after a change was sent: it was made or not, but never by half.

    Or it was made, as the text says then, but what a host had written there cannot be read.
    """
