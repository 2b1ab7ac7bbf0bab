"""What people name: a database, a server. Tells URLs from paths, and shows no password."""

from __future__ import annotations

import re
from urllib.parse import unquote

# Whatever looks like a URL, but not a drive of Windows.
_URL = r"(?is)(?![a-z]:)(.*://|\W*postgres[^/]*:)"

# Up to where a password begins. Where a URL was taken for a path, one slash is left of the two.
_PASSWORD = r"""(?isx)
    :/+ [^:]* : (?= .*@ )
    | (?: ^ | [\s'"=] | // ) (?! [a-z]:[/\\] ) [^\s:/\\'"]+ : (?! [\s/\\] ) (?= .*@ )
    | (?: password | passwd | pwd | secret ) \s* =
"""


def is_url(name: str) -> bool:
    """Tell whether a database's name is a URL and no path; what may hold a password is no path."""
    return (":" in name and re.match(_URL, name) is not None) or without_password(name) != name


def without_password(text: str) -> str:
    """Return a text up to where a password may begin in it: user:password@, password=, however spelled."""
    shown = text
    if not {":", "=", "%"}.isdisjoint(text):
        for decode in (str, unquote):
            found = re.search(_PASSWORD, decode(shown))
            shown = decode(shown)[: found.end()] if found else shown
    return text if shown == text else f"{shown}..."
