"""The domain: projects, their kinds, and the facts that can stand in the way."""

from __future__ import annotations

import enum
from typing import NamedTuple, Optional, Union

# The project that every store holds from the start and never loses.
DEFAULT_PROJECT_ID = 1

# Phoenix keeps the runs of its playground here and always lists it.
PLAYGROUND_PROJECT_NAME = "playground"


class ProjectKind(str, enum.Enum):
    """What made a project; lists show the standard ones unless asked for more.

    The members are strings, so ``"experiment"`` and ``ProjectKind.EXPERIMENT`` are interchangeable.
    """

    STANDARD = "standard"
    EXPERIMENT = "experiment"
    DATASET_EVALUATOR = "dataset_evaluator"


# A project as an engine hands out whole pages of them: (id, name, description). A plain tuple,
# because making Projects of a page would cost a tenth of the answer; Project(*row) makes one.
ProjectRow = tuple[int, str, Optional[str]]

# What addresses one project: an int is an id, a str is a name.
ProjectKey = Union[int, str]


class Project(NamedTuple):
    """A project as it was when it was read; immutable.

    id: the row's integer, > 0, never used for another project.
    name: at least one character, unique, case-sensitive, never changed.
    description: text, or None.
    """

    id: int
    name: str
    description: str | None


class ProjectsError(Exception):
    """The root of every error that this package raises on purpose."""


class ProjectNotFound(ProjectsError):
    """No project has this id or name (404)."""

    def __init__(self, key: ProjectKey) -> None:
        self.key = key
        self.addressed_by = "name" if isinstance(key, str) else "ID"
        super().__init__(f"no project has the {self.addressed_by} {key!r}")


class ProjectExists(ProjectsError):
    """Another project has this name already (409)."""

    def __init__(self, name: str) -> None:
        super().__init__(f"a project named {name!r} already exists")
        self.name = name


class ChangeForbidden(ProjectsError):
    """A constraint or trigger of the host's own, in the same database, forbids the change (409)."""


class DefaultProjectProtected(ProjectsError):
    """The default project can be described but never deleted (403)."""

    def __init__(self) -> None:
        super().__init__("the default project cannot be deleted")


class StoreReadOnly(ProjectsError):
    """The store was opened for reading only (403)."""

    def __init__(self) -> None:
        super().__init__("the store is read-only")


class StoreError(ProjectsError):
    """The store could not do its part; nothing was written."""


class StoreBusy(StoreError):
    """Another writer held the store for longer than the busy timeout (503, Retry-After)."""


class StoreFull(StoreError):
    """There is no room left to write (507)."""


class StoreUnavailable(StoreError):
    """The store cannot be opened, read or written (503)."""
