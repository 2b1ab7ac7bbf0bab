"""Clients of a server, as a process of their own.

python -m tests.faults.crowd KIND COUNT PORT: COUNT clients of a kind, each a thread. It prints "ready" when
they have begun, and goes on until its standard input ends; then it prints how many answers they got. It
fails if an answer is not what it must be.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import random
import socket
import sys
import threading
import time
import uuid
from typing import Any, Callable

HEAD = "HTTP/1.1\r\nHost: x\r\n"
RESET = b"\x01\x00\x00\x00\x00\x00\x00\x00"  # SO_LINGER: on, for 0 seconds
has_ended = threading.Event()
answered: list[int] = []
failures: list[str] = []
port = 0


def connect(buffer: int = 0) -> socket.socket:
    """buffer: bytes that may come and not be read."""
    connection = socket.socket()
    if buffer:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    connection.settimeout(30)
    connection.connect(("127.0.0.1", port))
    return connection


def ask(client: http.client.HTTPConnection, method: str, path: str, document: Any = None) -> tuple[int, Any]:
    body = None if document is None else json.dumps(document)
    client.request(method, path, body, {"Content-Type": "application/json"} if body else {})
    response = client.getresponse()
    text = response.read()
    return response.status, json.loads(text) if response.headers[
        "Content-Type"
    ] == "application/json" else text


def get(path: str, *, is_kept: bool = True) -> None:
    """Ask for a path again and again, over one connection or new ones. {}: each time another number."""
    while not has_ended.is_set():
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as client:
            while not has_ended.is_set():
                client.request("GET", path.format(random.random()))
                response = client.getresponse()
                response.read()
                assert response.status == 200, response.status
                answered.append(1)
                if not is_kept:
                    break


def search() -> None:
    get("/v1/projects?name_contains=zzz{}")  # what was found before would be remembered


def list_() -> None:
    get("/v1/projects?limit=10000")


def get_slowly() -> None:
    get("/slow")


def get_slowly_anew() -> None:
    get("/slow", is_kept=False)


def change() -> None:
    """Have one of many threads of the server work all the time."""
    with connect() as connection:
        while not has_ended.is_set():
            connection.sendall(f"POST /slow {HEAD}Content-Length: 1\r\n\r\nx".encode())
            assert connection.recv(4_096).startswith(b"HTTP/1.1 200 ")
            answered.append(1)


def read_slowly() -> None:
    with connect(4_096) as connection:
        connection.sendall(f"GET /v1/projects?limit=10000 {HEAD}\r\n".encode())
        while not has_ended.wait(1 if answered else 0):
            assert connection.recv(100)
            answered.append(1)


def send_slowly() -> None:
    with connect() as connection:
        head = f"POST /v1/projects {HEAD}Content-Type: application/json\r\nContent-Length: 9999\r\n\r\n"
        connection.sendall(head.encode())
        while not has_ended.wait(0.01):
            connection.sendall(b" ")
            answered.append(1)


def pipeline() -> None:
    """Send 1,000 requests at once, and again as soon as these are answered."""
    requests = f"GET /v1/projects?limit=1 {HEAD}\r\n".encode() * 1_000
    with connect() as connection, connection.makefile("rb") as file:
        while not has_ended.is_set():
            sender = threading.Thread(target=connection.sendall, args=(requests,))
            sender.start()
            for _ in range(1_000):
                read_answer(file)
                answered.append(1)
            sender.join()


def read_answer(file: Any) -> bytes:
    line = file.readline()
    assert line == b"HTTP/1.1 200 OK\r\n", line
    length = 0
    while (line := file.readline()) != b"\r\n":
        name, _, value = line.partition(b": ")
        length = int(value) if name.lower() == b"content-length" else length
    body: bytes = file.read(length)
    assert len(body) == length
    return body


# The load of every kind


def mix() -> None:
    """Do what clients do, good and bad, and check each answer that comes whole."""
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    with contextlib.closing(client):
        while not has_ended.is_set():
            action = random.choice(ACTIONS)
            action(client)
            answered.append(1)


def create(client: http.client.HTTPConnection) -> None:
    name = uuid.uuid4().hex
    status, document = ask(client, "POST", "/v1/projects", {"name": name, "description": name * 9})
    assert (status, document["data"]["name"]) == (200, name), document
    path = f"/v1/projects/{document['data']['id']}"
    for _ in range(3):
        assert ask(client, "GET", path) == (200, document)
    assert ask(client, "GET", f"/v1/projects/{name}") == (200, document)
    if random.random() < 0.9:
        assert ask(client, "DELETE", path)[0] == 204
        assert ask(client, "GET", path)[0] == 404


def look_for(client: http.client.HTTPConnection) -> None:
    letters = uuid.uuid4().hex[:2]
    status, document = ask(client, "GET", f"/v1/projects?limit=50&name_contains={letters.upper()}")
    assert status == 200
    assert all(letters in project["name"] for project in document["data"])


def list_all(client: http.client.HTTPConnection) -> None:
    status, document = ask(client, "GET", "/v1/projects?limit=10000")
    assert status == 200
    assert document["data"][-1]["name"] == "default"


def be_wrong(client: http.client.HTTPConnection) -> None:
    assert ask(client, "POST", "/v1/projects", {"name": 5})[0] == 422
    assert ask(client, "GET", "/nowhere")[0] == 404


def pipeline_some(client: http.client.HTTPConnection) -> None:
    with connect() as connection, connection.makefile("rb") as file:
        connection.sendall(f"GET /v1/projects/default {HEAD}\r\n".encode() * 100)
        for _ in range(100):
            assert json.loads(read_answer(file))["data"]["name"] == "default"


def read_in_pieces(client: http.client.HTTPConnection) -> None:
    with connect(4_096) as connection:
        connection.sendall(f"GET /v1/projects?limit=10000 {HEAD}Connection: close\r\n\r\n".encode())
        data = b""
        while piece := connection.recv(20_000):
            data += piece
            time.sleep(0.001)
        head, _, body = data.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        assert json.loads(body)["data"][-1]["name"] == "default"


REQUESTS = [
    f"GET /v1/projects?limit=10000 {HEAD}\r\n".encode(),
    f"POST /v1/projects {HEAD}Content-Type: application/json\r\nContent-Length: 50\r\n\r\n".encode()
    + b'{"name": "default"}'.ljust(50),
    f"GET /healthz {HEAD}Transfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n0\r\n\r\n".encode(),
]


def break_off(client: http.client.HTTPConnection) -> None:
    """Send a part of some requests; read a part of the answers, or none; then reset, half-close or close."""
    with connect(random.choice([0, 4_096])) as connection, contextlib.suppress(ConnectionError):
        data = b"".join(random.choices(REQUESTS, k=random.randrange(1, 4)))
        connection.sendall(data[: random.randrange(len(data) + 1)])
        end = random.choice(["reset", "half-close", "close"])
        if end == "half-close":
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(65_536):
                pass
        elif end == "reset":
            connection.settimeout(random.random() / 100)
            with contextlib.suppress(socket.timeout):
                connection.recv(random.randrange(1, 9_999))
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)


ACTIONS: list[Callable[[http.client.HTTPConnection], None]] = [
    *(create, create, create, look_for, list_all, be_wrong, pipeline_some),
    *(read_in_pieces, break_off, break_off, break_off),
]

KINDS: dict[str, Callable[[], None]] = {
    "search": search,
    "list": list_,
    "get slowly": get_slowly,
    "get slowly anew": get_slowly_anew,
    "change": change,
    "read slowly": read_slowly,
    "send slowly": send_slowly,
    "pipeline": pipeline,
    "mix": mix,
}


def main() -> None:
    global port
    kind, count, port = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])

    def run() -> None:
        try:
            KINDS[kind]()
        except BaseException as error:
            failures.append(repr(error))
            raise

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    print("ready", flush=True)
    sys.stdin.read()
    has_ended.set()
    for thread in threads:
        thread.join()
    assert failures == []
    print(len(answered))


if __name__ == "__main__":
    main()
