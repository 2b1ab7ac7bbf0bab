"""Use a client that openapi-python-client has made, and print what came of it as JSON.

Arguments: the URL of a server, and a key.
"""

from __future__ import annotations

import json
import sys

from projects_client import AuthenticatedClient
from projects_client.api.projects import (
    create_project,
    delete_project,
    get_project,
    get_projects,
    update_project,
)
from projects_client.api.server import get_health, get_open_api, get_phoenix_version
from projects_client.models import Errors, OneProject, OpenAPI, Page, ProjectToCreate, ProjectToUpdate
from projects_client.types import UNSET

NAME = "a/b ü?"


def project_of(answer: object) -> dict[str, object]:
    assert isinstance(answer, OneProject)
    return answer.data.to_dict()


def page_of(answer: object) -> Page:
    assert isinstance(answer, Page)
    return answer


url, key = sys.argv[1:]
with AuthenticatedClient(url, key, raise_on_unexpected_status=True) as client:
    created = project_of(create_project.sync(client=client, body=ProjectToCreate(NAME, "first")))
    for number in range(4):
        create_project.sync(client=client, body=ProjectToCreate(f"p{number}"))
    pages = [page_of(get_projects.sync(client=client, limit=4))]
    while cursor := pages[-1].next_cursor:
        pages.append(page_of(get_projects.sync(client=client, limit=4, cursor=cursor)))
    found = page_of(get_projects.sync(client=client, name_contains="B Ü"))
    got = project_of(get_project.sync(NAME, client=client))
    updated = project_of(update_project.sync(NAME, client=client, body=ProjectToUpdate("second")))
    kept = project_of(update_project.sync(NAME, client=client, body=ProjectToUpdate(UNSET)))
    exists = create_project.sync_detailed(client=client, body=ProjectToCreate("default"))
    wrong = create_project.sync_detailed(client=client, body=ProjectToCreate(""))
    assert isinstance(wrong.parsed, Errors)
    deleted = delete_project.sync_detailed(NAME, client=client)
    gone = get_project.sync_detailed(NAME, client=client)
    document = get_open_api.sync(client=client)
    assert isinstance(document, OpenAPI)
    with AuthenticatedClient(url, "wrong") as stranger:
        answer = get_projects.sync_detailed(client=stranger)
    print(
        json.dumps(
            {
                "created": created,
                "pages": [[project.name for project in page.data] for page in pages],
                "found": [project.name for project in found.data],
                "got": got,
                "updated": updated,
                "kept": kept,
                "exists": [exists.status_code, exists.parsed],
                "wrong": [wrong.status_code, wrong.parsed.detail[0].type_, wrong.parsed.detail[0].loc],
                "deleted": deleted.status_code,
                "gone": [gone.status_code, gone.parsed],
                "health": get_health.sync(client=client),
                "version": get_phoenix_version.sync(client=client),
                "openapi": document["openapi"],
                "stranger": answer.status_code,
            }
        )
    )
