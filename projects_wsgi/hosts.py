"""The hosts for which a server answers that only this machine can reach.

A web page can give its own name the address of this machine once it is loaded (DNS rebinding). Its requests
then come from a browser here, which lets it read the answers, and only their Host tells that they are a
stranger's. So a name that a stranger could own is refused, unless it was allowed.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from typing import Callable

# In this form alone: a browser turns the others, like 0x7f.1, into it.
_IPV4 = re.compile(r"(?:[0-9]{1,3}\.){3}[0-9]{1,3}")
_NOBODYS = (".localhost", ".internal")  # RFC 6761, 6.3; reserved by ICANN for networks of one's own


def make_host_check(names: Iterable[str]) -> Callable[[str], bool]:
    """Return a function that tells whether a host of valid syntax is one of these, or no stranger's."""
    allowed = frozenset(map(host_name, names))

    @functools.lru_cache(maxsize=16)  # most clients send the same one with each request
    def is_allowed(host: str) -> bool:
        name = host_name(host)
        return (
            name in allowed
            or name.startswith("[")  # an IPv6 address
            or _IPV4.fullmatch(name) is not None
            or name.endswith(_NOBODYS)
            or ("." not in name and "%" not in name)  # %2E is a dot
        )

    return is_allowed


def host_name(host: str) -> str:
    """Return the name in a host: without its port and a final dot, in lower case. It may be empty."""
    name = re.sub(":[0-9]*$", "", host) if host.startswith("[") else host.partition(":")[0]
    return name.lower().removesuffix(".")
