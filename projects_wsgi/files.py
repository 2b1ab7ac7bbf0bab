"""What makes sure that a file is on the disk under its name."""

from __future__ import annotations

import errno
import os

_UNSUPPORTED = (errno.EINVAL, errno.ENOTSUP)  # a file system that syncs no folders


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
