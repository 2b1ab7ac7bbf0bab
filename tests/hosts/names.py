"""Names that come through only if nobody on the way touches the path."""

from __future__ import annotations

import json
from urllib.parse import quote

from ..support.replay import Step

NAMES = (
    *("a/b", "/a", "a/", "a//b", "//a", "/", "v1/projects", "日本/語"),
    *(".", "..", "a/../b", "a/./b"),
    *("%", "100%", "%2F", "a%2Fb", "%25", "%zz", "%E9"),
    *("+", "a+b", "a b", "a;b", "a?b", "a#b", "a\\b", "a&b=c", "a,b:c@d", "[x]", '"<^`{|}>"', "~"),
    *("naïve", "o\u0308", "日本語", "🚀", "\x7f", "tab\there", "new\nline", "carriage\rreturn", "nul\0here"),
)


def name_steps(first: int) -> list[Step]:
    """Return the requests that make each name and get it, with its slashes encoded and not; and one more.

    first: the number of the first one.
    """
    steps: list[Step] = []
    for name in NAMES:
        number = first + len(steps)
        project = {"name": name, "description": None, "id": f"${number}"}
        answer = {"status": 200, "type": "application/json", "json": {"data": project}}
        headers = {"Content-Type": "application/json"}
        body = json.dumps({"name": name}).encode()
        steps.append(Step(number, "POST", "/v1/projects", headers, body, "make a name", answer))
        for text in dict.fromkeys((quote(name, safe=""), quote(name, safe="/"))):
            path = f"/v1/projects/{text}"
            steps.append(Step(first + len(steps), "GET", path, {}, None, "get a name", answer))
    ok = {"status": 200, "type": "text/plain", "text": "OK"}
    # So does a client whose base URL ends in a slash.
    steps.append(Step(first + len(steps), "GET", "//healthz", {}, None, "two slashes at the start", ok))
    return steps
