"""What makes sure that a file is on the disk under its name."""

from __future__ import annotations

import contextlib
import os


def sync_folder(folder: str) -> None:
    """Bring the names of the files in a folder onto the disk: else a power cut may undo a rename."""
    with contextlib.suppress(OSError):  # Windows opens no folders
        descriptor = os.open(folder or os.curdir, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
