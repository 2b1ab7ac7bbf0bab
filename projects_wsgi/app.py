"""The application: the handlers of the routes, and the one place where errors become answers."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from typing import Protocol

from . import openapi, wire
from .model import ProjectsError, StoreBusy, StoreError, StoreReadOnly
from .router import Router
from .storage import Store
from .wsgi import Environ, HTTPError, Request, Response, StartResponse, request_line

logger = logging.getLogger("projects_wsgi")


class Application(Protocol):
    """The projects API as a WSGI callable, with or without keys."""

    @property
    def store(self) -> Store:
        """Where the projects are; open to the host as well."""
        ...

    @property
    def common_headers(self) -> Iterable[tuple[str, str]]:
        """The headers that every answer carries."""
        ...

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Answer a request as PEP 3333 has it."""
        ...


class ProjectsApp:
    """The projects API of Phoenix as a WSGI callable over a store.

    store: where the projects are; open to the host as well.
    needs_key: whether the OpenAPI document says that /v1/ does; who sees to it is auth's business.
    The rest: see make_app.
    Raises ValueError for a number or a version out of its range.

    It never raises to its host, never prints, and logs to "projects_wsgi".
    """

    def __init__(
        self,
        store: Store,
        *,
        max_page_size: int = 10_000,
        max_body_size: int = 1_048_576,
        phoenix_version: str = wire.PHOENIX_VERSION,
        read_only: bool = False,
        needs_key: bool = False,
    ) -> None:
        if max_page_size < 1:
            raise ValueError(f"max_page_size must be at least 1 row, not {max_page_size}")
        if max_body_size < 1:
            raise ValueError(f"max_body_size must be at least 1 byte, not {max_body_size}")
        if not re.fullmatch(r"[0-9]+\.[0-9]+\.[0-9]+", phoenix_version):
            raise ValueError(f'phoenix_version must be like "20.26.1", not {phoenix_version!r}')
        self.store = store
        self.max_page_size = max_page_size
        self.max_body_size = max_body_size
        self.phoenix_version = phoenix_version
        # Those that every answer carries.
        self.common_headers = [(wire.VERSION_HEADER, phoenix_version)]
        self.needs_key = needs_key
        refuse = self.refuse_write if read_only else None
        collection = {"GET": self.list_projects, "POST": refuse or self.create_project}
        self._router = Router(
            {
                "/v1/projects": collection,
                "/v1/projects/": collection,
                "/v1/projects/{project_identifier}": {
                    "GET": self.get_project,
                    "PUT": refuse or self.update_project,
                    "DELETE": refuse or self.delete_project,
                },
                "/healthz": {"GET": self.get_health},
                "/readyz": {"GET": self.get_readiness},
                "/arize_phoenix_version": {"GET": self.get_phoenix_version},
                "/openapi.json": {"GET": self.get_openapi},
            }
        )

    def __call__(self, environ: Environ, start_response: StartResponse) -> list[bytes]:
        """Answer a request as PEP 3333 has it."""
        response = self._respond(environ)
        is_head = environ.get("REQUEST_METHOD") == "HEAD"
        return response.send(start_response, self.common_headers, with_body=not is_head)

    def _respond(self, environ: Environ) -> Response:
        """Answer a request, whatever happens."""
        arguments: tuple[str, ...] = ()
        try:
            request = Request(environ)
            handler, arguments = self._router.match(request.method, request.path)
            return handler(request, *arguments)
        except wire.WireError as error:
            return Response(error.status, error.content_type, error.body)
        except HTTPError as error:
            return Response(error.status, wire.TEXT, wire.render_text(error.text), error.headers)
        except ProjectsError as error:
            if isinstance(error, StoreError):
                logger.error("%s", error)
            status, body = wire.render_error(error, "".join(arguments))
            headers = [("Retry-After", "1")] if isinstance(error, StoreBusy) else []
            return Response(status, wire.TEXT, body, headers)
        except Exception:
            logger.exception("an unforeseen error at %a", request_line(environ))
            return Response(500, wire.TEXT, b"Internal Server Error")

    # /v1/projects

    def list_projects(self, request: Request) -> Response:
        """Answer a page of projects, newest first."""
        page = wire.parse_page_parameters(request.query, self.max_page_size)
        # One row more than the page holds tells whether and where the next one starts.
        rows = self.store.list_rows(page.start_id, page.limit + 1, page.name_contains, page.kinds)
        return Response(200, wire.JSON, wire.render_page(rows, page.limit))

    def create_project(self, request: Request) -> Response:
        """Make a project and answer it."""
        body = request.read_body(self.max_body_size)
        name, description = wire.parse_create(body, request.content_type)
        return Response(200, wire.JSON, wire.render_project(self.store.create(name, description)[:3]))

    # /v1/projects/{project_identifier}

    def get_project(self, _: Request, identifier: str) -> Response:
        """Answer the project of an id or a name."""
        return Response(200, wire.JSON, wire.render_project(self.store.get_row(identifier)))

    def update_project(self, request: Request, identifier: str) -> Response:
        """Set a project's description and answer the project."""
        description = wire.parse_update(request.read_body(self.max_body_size), request.content_type)
        project = self.store.update(identifier, description)
        return Response(200, wire.JSON, wire.render_project(project[:3]))

    def delete_project(self, _: Request, identifier: str) -> Response:
        """Delete a project and answer nothing."""
        self.store.delete(identifier)
        return Response(204)

    def refuse_write(self, *_: object) -> Response:
        """Refuse what changes something, in read-only mode, before its body is read."""
        raise StoreReadOnly

    # The rest

    def get_health(self, _: Request) -> Response:
        """Answer that the process does."""
        return Response(200, wire.TEXT, b"OK")

    def get_readiness(self, _: Request) -> Response:
        """Answer whether the store does."""
        self.store.ping()
        return Response(200, wire.JSON, b"{}")

    def get_phoenix_version(self, _: Request) -> Response:
        """Answer the version of the Phoenix to pass for."""
        return Response(200, wire.TEXT, wire.render_text(self.phoenix_version))

    def get_openapi(self, _: Request) -> Response:
        """Answer the OpenAPI document."""
        document = openapi.build_document(self.phoenix_version, self.needs_key)
        return Response(200, wire.JSON, wire.render_json(document))
