"""A file system in user space that notes all that is done to it, and what of that a power cut may leave.

Run as a program, it serves one folder of files at a mount point, and leaves its journal when it is
unmounted. A journal tells what the disk may hold after a cut at any moment:

- Of a file's writes that were not synced, a cut keeps none, some, the first ones or all; now and then the
  last is torn at a sector.
- Names, made, renamed or removed, are kept in their order, as many as the cut pleases; all that were there
  when the folder was synced; with ext4's journal also when any file was synced, because that brings the
  whole journal onto the disk (kernel.org/doc/html/latest/filesystems/ext4/journal.html).
"""

from __future__ import annotations

import contextlib
import errno
import os
import pickle
import random
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

SECTOR = 512
NOW = ".now"  # a file whose size is the length of the journal


class Write(NamedTuple):
    file: int
    offset: int
    data: bytes


class Truncate(NamedTuple):
    file: int
    size: int


class Rename(NamedTuple):
    """A change of names in one step. old: a name that goes. new: a name that comes, for a file."""

    old: str
    new: str
    file: int


class Sync(NamedTuple):
    """file: -1 for the folder."""

    file: int


Entry = Any  # one of the four above


def apply(content: bytearray, change: Write | Truncate) -> None:
    """Do to a file what a write or a truncation does."""
    if isinstance(change, Truncate):
        del content[change.size :]
        content.extend(bytes(change.size - len(content)))
    else:
        content.extend(bytes(max(0, change.offset - len(content))))
        content[change.offset : change.offset + len(change.data)] = change.data


def rename(names: dict[str, int], change: Rename) -> None:
    names.pop(change.old, None)
    if change.new:
        names[change.new] = change.file


class Disk:
    """What is on a disk, and what would be if nothing were lost.

    is_ext4: whether the names are synced with every file. is_lying: whether nothing is ever synced.
    """

    def __init__(self, *, is_ext4: bool, is_lying: bool = False) -> None:
        self.is_ext4 = is_ext4
        self.is_lying = is_lying
        self.synced: dict[int, bytearray] = {}
        self.changes: dict[int, list[Write | Truncate]] = {}
        self.names: dict[str, int] = {}
        self.renames: list[Rename] = []

    def note(self, entry: Entry) -> None:
        """Take in the next entry of a journal."""
        if isinstance(entry, Rename):
            self.renames.append(entry)
        elif isinstance(entry, (Write, Truncate)):
            self.changes.setdefault(entry.file, []).append(entry)
        elif not self.is_lying:
            content = self.synced.setdefault(entry.file, bytearray())
            for change in self.changes.pop(entry.file, []):
                apply(content, change)
            if entry.file == -1 or self.is_ext4:
                for noted in self.renames:
                    rename(self.names, noted)
                self.renames.clear()

    def cut(self, dice: random.Random) -> dict[str, bytes]:
        """Return the files that a power cut leaves now: their contents by their names."""
        names = dict(self.names)
        for change in self.renames[: dice.randint(0, len(self.renames))]:
            rename(names, change)
        return {name: bytes(self._kept(file, dice)) for name, file in names.items()}

    def _kept(self, file: int, dice: random.Random) -> bytearray:
        content = bytearray(self.synced.get(file, b""))
        changes = self.changes.get(file, [])
        some = [change for change in changes if dice.random() < 0.5]
        first = changes[: dice.randint(0, len(changes))]
        kept = dice.choice([changes, some, first, changes[:0]])
        for number, change in enumerate(kept, 1):
            if number == len(kept) and isinstance(change, Write) and dice.random() < 0.2:
                length = dice.randrange(0, len(change.data) + 1, SECTOR)
                change = change._replace(data=change.data[:length])
            apply(content, change)
        return content


def serve(mount_point: str, journal_path: str) -> None:
    """Serve a new file system until it is unmounted; then write its journal."""
    import fuse

    class Forgetful(fuse.Operations):  # type: ignore[misc, unused-ignore]
        """One folder; libfuse calls these methods, one at a time."""

        use_ns = True

        def __init__(self) -> None:
            self.journal: list[Entry] = []
            self.names: dict[str, int] = {}
            self.contents: list[bytearray] = []
            self.modes: list[int] = []
            self.mtimes: list[int] = []

        def find(self, path: str) -> int:
            try:
                return self.names[path[1:]]
            except KeyError:
                raise fuse.FuseOSError(errno.ENOENT) from None

        def note(self, entry: Entry) -> None:
            self.journal.append(entry)

        def getattr(self, path: str, fh: int | None = None) -> dict[str, int]:
            owner = {"st_uid": os.getuid(), "st_gid": os.getgid()}
            if path == "/":
                return {"st_mode": stat.S_IFDIR | 0o700, "st_nlink": 2, **owner}
            if path[1:] == NOW:
                return {"st_mode": stat.S_IFREG, "st_nlink": 1, "st_size": len(self.journal), **owner}
            file = self.find(path) if fh is None else fh
            times = dict.fromkeys(("st_mtime", "st_ctime", "st_atime"), self.mtimes[file])
            size = len(self.contents[file])
            return {
                "st_mode": stat.S_IFREG | self.modes[file],
                "st_nlink": 1,
                "st_size": size,
                **times,
                **owner,
            }

        def readdir(self, path: str, fh: int) -> list[str]:
            return [".", "..", *self.names]

        def create(self, path: str, mode: int, fi: Any = None) -> int:
            file = len(self.contents)
            self.contents.append(bytearray())
            self.modes.append(mode & 0o777)
            self.mtimes.append(time.time_ns())
            self.names[path[1:]] = file
            self.note(Rename("", path[1:], file))
            return file

        def open(self, path: str, flags: int) -> int:
            return self.find(path)

        def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
            return bytes(self.contents[fh][offset : offset + size])

        def change(self, entry: Write | Truncate) -> None:
            apply(self.contents[entry.file], entry)
            self.mtimes[entry.file] = time.time_ns()
            self.note(entry)

        def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
            self.change(Write(fh, offset, data))
            return len(data)

        def truncate(self, path: str, length: int, fh: int | None = None) -> None:
            self.change(Truncate(self.find(path) if fh is None else fh, length))

        def rename(self, old: str, new: str) -> None:
            entry = Rename(old[1:], new[1:], self.find(old))
            rename(self.names, entry)
            self.note(entry)

        def link(self, target: str, source: str) -> None:
            entry = Rename("", target[1:], self.find(source))
            rename(self.names, entry)
            self.note(entry)

        def unlink(self, path: str) -> None:
            self.find(path)
            rename(self.names, Rename(path[1:], "", -1))
            self.note(Rename(path[1:], "", -1))

        def chmod(self, path: str, mode: int) -> None:
            self.modes[self.find(path)] = mode & 0o777

        def chown(self, path: str, uid: int, gid: int) -> None:
            self.find(path)

        def utimens(self, path: str, times: tuple[int, int] | None = None) -> None:
            self.mtimes[self.find(path)] = times[1] if times else time.time_ns()

        def fsync(self, path: str, datasync: int, fh: int) -> None:
            self.note(Sync(fh))

        def fsyncdir(self, path: str, datasync: int, fh: int) -> None:
            self.note(Sync(-1))

        def statfs(self, path: str) -> dict[str, int]:
            return {"f_bsize": 4096, "f_frsize": 4096, "f_blocks": 2**20, "f_bavail": 2**20, "f_bfree": 2**20}

        def destroy(self, path: str) -> None:
            with open(journal_path, "wb") as file:
                pickle.dump(self.journal, file)

    options = {"attr_timeout": 0, "entry_timeout": 0, "big_writes": True, "hard_remove": True}
    fuse.FUSE(Forgetful(), mount_point, foreground=True, nothreads=True, fsname="forgetful", **options)


class Mount:
    """A mounted forgetful file system. journal: all that was done to it, once it is unmounted."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.journal: list[Entry] = []

    def now(self) -> int:
        """Return how long the journal is by now."""
        return os.stat(self.folder / NOW).st_size


@contextlib.contextmanager
def mounted(tmp_path: Path) -> Iterator[Mount]:
    """Mount a new forgetful file system until the block ends; afterwards, its journal is complete."""
    mount = Mount(tmp_path / "mount")
    mount.folder.mkdir()
    journal = tmp_path / "journal"
    line = [sys.executable, "-m", "tests.faults.forgetful", str(mount.folder), str(journal)]
    with subprocess.Popen(line, cwd=Path(__file__).parents[2]) as server:
        deadline = time.monotonic() + 10
        while not os.path.ismount(mount.folder):
            assert server.poll() is None, "cannot mount: it needs /dev/fuse, libfuse 2 and fusermount"
            assert time.monotonic() < deadline
            time.sleep(0.01)
        try:
            yield mount
        finally:
            subprocess.run(["fusermount", "-u", str(mount.folder)], check=True)
            server.wait(10)
    mount.journal = pickle.loads(journal.read_bytes())


if __name__ == "__main__":
    # The journal's entries must be those of the module that reads them.
    from tests.faults import forgetful

    forgetful.serve(sys.argv[1], sys.argv[2])
