"""Reads the projects of a Phoenix, or of another server of ours, over HTTP."""

from __future__ import annotations

import datetime
import http.client
import json
import re
import socket
import time
import urllib.request
from collections.abc import Iterator
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode, urlsplit

from ..locations import without_password
from ..model import ProjectKind, SourceUnavailable
from .lines import Incoming, parse_document

_PAGE = 1_000  # projects
_MAX_PAGE_SIZE = 268_435_456  # bytes
_TIMEOUT = 30.0  # seconds for which a server may be silent
_PAGE_SECONDS = 300.0  # that a page may take
_CHUNK = 65_536

_TRIES = 5
_FIRST_WAIT = 0.2  # seconds, then ever longer
_MAX_WAIT = 30.0
_BUSY = (429, 502, 503, 504)
_BROKEN = (socket.timeout, ConnectionResetError, ConnectionAbortedError, BrokenPipeError)

_EXPERIMENTS = "include_experiment_projects"
_EVALUATORS = "include_dataset_evaluator_projects"


def read_server(url: str, key: str | None) -> Iterator[tuple[int, Incoming]]:
    """Give the projects of a server and their ids, which does not tell their times. Raises SourceUnavailable.

    Each is of the kind by which it was found first, which holds even if the list changes meanwhile: what
    was deleted cannot be found later, and what was made has a larger id than was the largest at first.
    """
    server = _Server(url, key)
    now = datetime.datetime.now(datetime.timezone.utc)
    (newest_id, *_) = next(server.list_records(1, {_EXPERIMENTS: "true", _EVALUATORS: "true"}), (0,))
    found: set[int] = set()
    for kind, parameters in (
        (ProjectKind.STANDARD, {}),
        (ProjectKind.EXPERIMENT, {_EXPERIMENTS: "true"}),
        (ProjectKind.DATASET_EVALUATOR, {_EVALUATORS: "true"}),
    ):
        for project_id, name, description, *_ in server.list_records(_PAGE, parameters):
            if project_id <= newest_id and project_id not in found:
                found.add(project_id)
                yield project_id, (project_id, name, description, kind.value, now, now)


class _Server:
    """A server, and the key to it. Raises SourceUnavailable for what is no URL of one, or no key."""

    def __init__(self, url: str, key: str | None) -> None:
        if "@" in url or without_password(url) != url:  # which is not shown
            raise SourceUnavailable("the URL of a server must hold no user or password: give a key instead")
        try:
            parts = urlsplit(url)
            is_good = bool(parts.hostname) and parts.port != 0 and not (parts.query or parts.fragment)
        except ValueError:
            is_good = False
        if not is_good or re.search(r"[^!-~]", url):
            raise SourceUnavailable(f"{url!r} is not like http://host:port or https://host/prefix")
        if key and re.search(r"[^!-~]", key):  # which is not shown
            raise SourceUnavailable("the key must hold ASCII characters alone, and no blanks")
        self._url = url.rstrip("/")
        self._headers = {"Accept": "application/json"}
        if key:
            self._headers["Authorization"] = f"Bearer {key}"
        self._opener = urllib.request.build_opener(_NoRedirects)

    def list_records(self, limit: int, parameters: dict[str, str]) -> Iterator[Incoming]:
        """Give the listed projects, page by page."""
        last_id = cursor = None
        while True:
            page = self._get({"limit": str(limit), **parameters, **({"cursor": cursor} if cursor else {})})
            documents = page.get("data") if isinstance(page, dict) else None
            if not isinstance(documents, list):
                raise self._error("does not answer as a Phoenix does: there is no list of projects")
            for document in documents:
                record = parse_document(document) if isinstance(document, dict) else "it is no object"
                if isinstance(record, str):
                    raise self._error(f"does not list projects as a Phoenix does: {record[:300]}")
                if last_id is not None and record[0] >= last_id:
                    raise self._error(
                        f"lists project {record[0]} after project {last_id}: its list would not end"
                    )
                last_id = record[0]
                yield record
            cursor = page.get("next_cursor")
            if not cursor:
                return
            if not documents or not isinstance(cursor, str):
                raise self._error(f"gives the cursor {str(cursor)[:100]!r}: its list would not end")

    def _get(self, parameters: dict[str, str]) -> Any:
        request = urllib.request.Request(
            f"{self._url}/v1/projects?{urlencode(parameters)}", headers=self._headers
        )
        wait = _FIRST_WAIT
        for attempt in range(_TRIES):
            if attempt:
                time.sleep(wait)
                wait *= 2
            try:
                with self._opener.open(request, timeout=_TIMEOUT) as response:
                    return self._parse(_read_all(response))
            except HTTPError as error:
                with error:
                    if error.code not in _BUSY:
                        raise self._error(self._refusal(error)) from None
                    reason = f"it answers {error.code}"
                    wait = max(wait, _parse_seconds(error.headers.get("Retry-After")))
            except (OSError, UnicodeError, http.client.HTTPException) as error:  # UnicodeError: of the name
                cause = error.reason if isinstance(error, URLError) else error
                if not isinstance(cause, (*_BROKEN, http.client.HTTPException)):
                    raise self._error(f"cannot be reached: {cause}") from None
                reason = str(cause) or type(cause).__name__
        raise self._error(f"was too busy {_TRIES} times: {reason}")

    def _parse(self, body: bytes) -> Any:
        if len(body) > _MAX_PAGE_SIZE:
            raise self._error(f"gives a page of more than {_MAX_PAGE_SIZE:,} bytes")
        try:
            return json.loads(body)
        except (ValueError, RecursionError):
            reason = "does not answer as a Phoenix does: that is no JSON; is the URL right?"
            raise self._error(reason) from None

    def _refusal(self, error: HTTPError) -> str:
        if error.code in (401, 403):
            has_key = "Authorization" in self._headers
            return f"answers {error.code}: {'it does not accept the key' if has_key else 'it wants a key'}"
        if 300 <= error.code < 400:
            return f"answers {error.code}, for another address, which is not followed: give the right one"
        return f"answers {error.code} to {urlsplit(error.url).path}; is the URL right?"

    def _error(self, text: str) -> SourceUnavailable:
        return SourceUnavailable(f"the server {self._url} {text}")


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Follows none: the key is for one server alone."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _read_all(response: Any) -> bytes:
    """Read a body, as far as it may go and a little further. Raises socket.timeout for one without an end."""
    deadline = time.monotonic() + _PAGE_SECONDS
    parts = []
    size = 0
    while size <= _MAX_PAGE_SIZE and (part := response.read1(_CHUNK)):
        parts.append(part)
        size += len(part)
        if time.monotonic() > deadline:
            raise socket.timeout("the page takes too long")
    if response.length and size <= _MAX_PAGE_SIZE:
        raise http.client.IncompleteRead(b"", response.length)
    return b"".join(parts)


def _parse_seconds(text: str | None) -> float:
    return min(float(text), _MAX_WAIT) if text and text.isascii() and text.isdigit() else 0.0
