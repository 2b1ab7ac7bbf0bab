"""The application: the handlers of the routes, and the one place where errors become answers."""

from __future__ import annotations

import contextlib
import logging

from . import openapi, wire
from .auth import Authenticate, authorize
from .model import StoreError, StoreReadOnly
from .origins import Origins, answer_preflight
from .page import read_page
from .router import Router
from .storage import Store
from .wsgi import TEXT, Environ, Headers, HTTPError, Request, Response, StartResponse, request_line

logger = logging.getLogger("projects_wsgi")

_MAX_REMEMBERED_PAGES = 64
_MAX_REMEMBERED_SIZE = 131_072  # bytes of a page and its query; so 8 MiB in all


class ProjectsApp:
    """The projects API of Phoenix as a WSGI callable over a store; see make_app, which makes it.

    store: for the host's own use as well. common_headers: those of every answer.
    has_page: whether / is the page.

    It never raises to its host, never prints, and logs to "projects_wsgi".
    """

    def __init__(
        self,
        store: Store,
        *,
        max_page_size: int,
        max_page_bytes: int,
        max_body_size: int,
        phoenix_version: str,
        read_only: bool,
        authenticate: Authenticate | None,
        origins: Origins | None,
        has_page: bool,
    ) -> None:
        self.store = store
        self.max_page_size = max_page_size
        self.max_page_bytes = max_page_bytes
        self.max_body_size = max_body_size
        self.phoenix_version = phoenix_version
        self.common_headers = [(wire.VERSION_HEADER, phoenix_version), wire.NO_SNIFF]
        self._authenticate = authenticate
        self._origins = origins
        self.has_page = has_page
        self._pages: dict[tuple[object, wire.PageParameters], bytes] = {}  # by the store's version
        # Functions, not bound methods, which would keep a dropped application and its store alive.
        app = type(self)
        refuse = app.refuse_write if read_only else None
        collection = {"GET": app.list_projects, "POST": refuse or app.create_project}
        pages = {path: {"GET": app.get_page} for path in ("", "/") if has_page}
        self._router = Router(
            {
                **pages,
                "/v1/projects": collection,
                "/v1/projects/": collection,
                "/v1/projects/{project_identifier}": {
                    "GET": app.get_project,
                    "PUT": refuse or app.update_project,
                    "DELETE": refuse or app.delete_project,
                },
                "/healthz": {"GET": app.get_health},
                "/readyz": {"GET": app.get_readiness},
                "/arize_phoenix_version": {"GET": app.get_phoenix_version},
                "/openapi.json": {"GET": app.get_openapi},
            }
        )

    def __call__(self, environ: Environ, start_response: StartResponse) -> list[bytes]:
        """Answer a request as PEP 3333 has it."""
        try:
            request = Request(environ)
            if self._origins is not None and self._origins.is_preflight(environ):
                response = answer_preflight(environ)  # without a key: a browser sends none with it
            else:
                if self._authenticate is not None:
                    authorize(request, self._authenticate)
                handler, identifier = self._router.match(request.method, request.path)
                response = (
                    handler(self, request) if identifier is None else handler(self, request, identifier)
                )
        except HTTPError as error:
            response = error.response
        except MemoryError:
            self._pages.clear()
            response = wire.OUT_OF_MEMORY
            with contextlib.suppress(MemoryError):
                logger.error("out of memory at %.800a", request_line(environ))
        except Exception as error:
            response = wire.render_error(error)
            if response.status == 500:
                logger.exception("an unforeseen error at %.800a", request_line(environ))
            elif isinstance(error, StoreError):
                logger.error("%.800s", error)
        is_head = environ.get("REQUEST_METHOD") == "HEAD"
        return response.send(start_response, self.headers_for(environ), with_body=not is_head)

    def headers_for(self, environ: Environ) -> Headers:
        """Return the headers of every answer to a request, also of one that its server gives."""
        if self._origins is None:
            return self.common_headers
        return [*self.common_headers, *self._origins.headers(environ)]

    def list_projects(self, request: Request) -> Response:
        """Answer with a page of projects, newest first: the same bytes while nothing changes."""
        query = request.query
        page = wire.parse_page_parameters(query, self.max_page_size)
        version = self.store.version()  # before the rows: a page may be newer than that says, but not older
        body = self._pages.get((version, page))
        if body is None:
            # One row more than the page holds tells whether and where the next one starts.
            rows = self.store.list_rows(
                page.start_id, page.limit + 1, page.name_contains, page.kinds, self.max_page_bytes
            )
            body = wire.render_page(rows, page.limit, self.max_page_bytes)
            if version is not None and len(query) + len(body) <= _MAX_REMEMBERED_SIZE:
                if len(self._pages) >= _MAX_REMEMBERED_PAGES:
                    self._pages.clear()
                self._pages[version, page] = body
        return Response(200, wire.JSON, body)

    def create_project(self, request: Request) -> Response:
        """Make a project and answer with it."""
        body = request.read_body(self.max_body_size)
        name, description = wire.parse_create(body, request.content_type)
        project = self.store.create(name, description)
        return Response(200, wire.JSON, wire.render_changed(project[:3]))

    def get_project(self, _: Request, identifier: str) -> Response:
        """Answer with the project of an id or a name."""
        return Response(200, wire.JSON, wire.render_project(self.store.get_row(identifier)))

    def update_project(self, request: Request, identifier: str) -> Response:
        """Set a project's description and answer with the project."""
        body = request.read_body(self.max_body_size)
        description = wire.parse_update(body, request.content_type)
        project = self.store.update(identifier, description)
        return Response(200, wire.JSON, wire.render_changed(project[:3]))

    def delete_project(self, _: Request, identifier: str) -> Response:
        """Delete a project."""
        self.store.delete(identifier)
        return Response(204)

    def refuse_write(self, *_: object) -> Response:
        """Refuse a change in read-only mode, before its body is read."""
        raise StoreReadOnly

    def get_health(self, _: Request) -> Response:
        """Answer that the process runs."""
        return Response(200, TEXT, b"OK")

    def get_readiness(self, _: Request) -> Response:
        """Answer whether the store can be used."""
        self.store.ping()
        return Response(200, wire.JSON, b"{}")

    def get_phoenix_version(self, _: Request) -> Response:
        """Answer with the version of Phoenix whose API this is."""
        return Response(200, TEXT, self.phoenix_version.encode())

    def get_openapi(self, _: Request) -> Response:
        """Answer with the OpenAPI document."""
        needs_key = self._authenticate is not None
        document = openapi.build_document(self.phoenix_version, needs_key, self.has_page)
        return Response(200, wire.JSON, wire.render_json(document))

    def get_page(self, _: Request) -> Response:
        """Answer with the page for people."""
        return read_page()
