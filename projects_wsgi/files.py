"""New files beside others: held by one process, readable to the same users, on the disk under their names."""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Iterator

# What keeps a file from getting another's owner: the user has no right to, the user namespace does not know
# the owner (EINVAL), the file system has no owners.
_OWNER_ERRORS = (errno.EPERM, errno.EACCES, errno.EINVAL, errno.ENOSYS, errno.ENOTSUP)
_UNSUPPORTED = (errno.EINVAL, errno.ENOTSUP)  # a file system that syncs no folders
_ACCESS_LIST = "system.posix_acl_access"  # acl(5); Linux has it as an extended attribute

_UNFINISHED = re.compile(r"projects-[0-9a-f]{8}\.unfinished")

_FEW, _SMALL = 4, 32_768  # files, as a database may need besides its own, and bytes
_REMEDIES = {
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), "close some, or let the process open more"),
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "make room on the disk"),
}


def create_held(path: str, mode: int = 0o600) -> int:
    """Make a new file and return its descriptor; others know that it is in use until that is closed.

    Raises FileExistsError if somebody holds a file there; OSError.
    """
    while True:
        remove_if_left(path)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, mode)
        if _hold(path, descriptor) is not False:
            return descriptor
        os.close(descriptor)  # another process has just taken it for left


def remove_if_left(path: str) -> None:
    """Remove a file of create_held whose maker is gone without having removed it."""
    with contextlib.suppress(OSError):
        try:
            descriptor = os.open(path, os.O_RDWR)  # without which NFS locks nothing
        except PermissionError:  # it has got the mode of one that nobody may write
            descriptor = os.open(path, os.O_RDONLY)
        try:
            if _hold(path, descriptor):
                os.unlink(path)
        finally:
            os.close(descriptor)


def _hold(path: str, descriptor: int) -> bool | None:
    """Hold an open file; tell whether nobody else did, and it is still the one at its path.

    None: nobody can tell, because its file system has no locks.
    """
    try:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except ImportError:  # Windows, which removes no file that is open
        return True
    except BlockingIOError:
        return False
    except OSError:
        return None
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except OSError:
        return False


def copy_permissions(source: str, descriptor: int, *, must_keep_owner: bool = False) -> None:
    """Give a new file the owner, group, mode and access list of another, so far as this user may.

    The new file is one that only its owner can read; nobody can read it afterwards who cannot read the
    other one. Raises PermissionError if must_keep_owner and that cannot be; OSError.
    """
    if not hasattr(os, "fchown"):  # on Windows
        return
    status = os.stat(source)
    mode = status.st_mode & 0o777
    try:
        os.fchown(descriptor, status.st_uid, status.st_gid)
        # Before the mode, whose group bits would let in the users of a list that the folder has given.
        has_all = _copy_access_list(source, descriptor)
    except OSError as error:
        if error.errno not in _OWNER_ERRORS:
            raise
        if must_keep_owner:
            owner = f"{status.st_uid}:{status.st_gid}"
            reason = f"it belongs to another user or group ({owner}); run this as that user or as root"
            raise PermissionError(errno.EPERM, reason) from None
        has_all = False  # the group is another one
    os.fchmod(descriptor, mode if has_all else mode & ~0o070)


def _copy_access_list(source: str, descriptor: int) -> bool:
    """Give a file the access list of another, or none; tell whether the mode's group bits mean the same."""
    if not hasattr(os, "getxattr"):  # not on Linux
        return True
    try:
        access_list = os.getxattr(source, _ACCESS_LIST)
    except OSError:
        with contextlib.suppress(OSError):  # there is none
            os.removexattr(descriptor, _ACCESS_LIST)
        return True
    try:
        os.setxattr(descriptor, _ACCESS_LIST, access_list)
    except OSError as error:
        if error.errno != errno.ENOTSUP:  # another file system
            raise
        return False
    return True


def sync_folder(folder: str) -> None:
    """Bring the names of the files in a folder onto the disk: else a power cut may undo a rename.

    Raises OSError if the disk fails.
    """
    try:
        descriptor = os.open(folder or os.curdir, os.O_RDONLY)
    except OSError:  # Windows opens no folders
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def unfinished_file(folder: str, mode: int = 0o600) -> Iterator[tuple[str, int]]:
    """Give path and descriptor of a new file of this call's own, gone afterwards unless it was renamed.

    What others left is cleared away.
    """
    with contextlib.suppress(OSError):  # whoever may write to a folder need not be one who may list it
        for name in os.listdir(folder):
            if _UNFINISHED.fullmatch(name):
                remove_if_left(os.path.join(folder, name))
    path = os.path.join(folder, f"projects-{os.urandom(4).hex()}.unfinished")
    descriptor = create_held(path, mode)
    try:
        yield path, descriptor
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        os.close(descriptor)


def scarcity(folder: str) -> str:
    """Say why no more files can be opened, or made in a folder: a few small ones; or ""."""
    with contextlib.ExitStack() as made:
        try:
            for _ in range(_FEW):
                _, descriptor = made.enter_context(unfinished_file(folder))
                size = _SMALL
                while size:
                    size -= os.write(descriptor, bytes(size))
        except OSError as error:
            if advice := remedy(error):
                return f"{error.strerror}; {advice}"
    return ""


def remedy(error: OSError) -> str:
    """Say what to do where more files cannot be opened, or made; or ""."""
    return _REMEDIES.get(error.errno or 0, "")
