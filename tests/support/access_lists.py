"""POSIX access lists (acl(5)), as Linux keeps them in an extended attribute."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest

ACCESS_LIST = "system.posix_acl_access"
DEFAULT_LIST = "system.posix_acl_default"  # of a folder: what new files in it begin with
_NOBODY = 0xFFFFFFFF


def set_access_list(path: Path, name: str = ACCESS_LIST) -> bytes:
    """Let user 4242 read and write, and the owning group nothing; return the list.

    Skips the test where there are no such lists.
    """
    entries = [(1, 6, _NOBODY), (2, 6, 4242), (4, 0, _NOBODY), (0x10, 6, _NOBODY), (0x20, 0, _NOBODY)]
    value = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
    try:
        os.setxattr(path, name, value)
    except (AttributeError, OSError):
        pytest.skip("this file system has no access lists")
    return value


def access_list(path: Path) -> bytes | None:
    try:
        return os.getxattr(path, ACCESS_LIST)
    except OSError:
        return None
