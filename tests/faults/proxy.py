"""A proxy that stands between a program and its server, and fails as networks do."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from collections.abc import Iterator


class Proxy:
    """Passes on what comes, on each connection in a thread of its own.

    port: where it listens, on 127.0.0.1. is_silent: whether it swallows all that comes instead.
    must_cut: whether it ends a connection, once, instead of passing on the next answer.
    """

    def __init__(self, server_port: int) -> None:
        self.is_silent = False
        self.must_cut = False
        self._server_port = server_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._clients: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._listen)]
        self._threads[0].start()

    def close(self) -> None:
        """Stop listening, and end all connections."""
        for each in (self._listener, *self._clients):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        self._listener.close()

    def _listen(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client = self._listener.accept()[0]
                self._clients.append(client)
                self._threads.append(threading.Thread(target=self._serve, args=(client,)))
                self._threads[-1].start()

    def _serve(self, client: socket.socket) -> None:
        server = socket.create_connection(("127.0.0.1", self._server_port))
        with client, server, contextlib.suppress(ConnectionError):
            while True:
                for source in select.select([client, server], [], [])[0]:
                    data = source.recv(65_536)
                    if not data:
                        return
                    if source is server and self.must_cut:
                        self.must_cut = False
                        return
                    if not self.is_silent:
                        (server if source is client else client).sendall(data)


@contextlib.contextmanager
def running_proxy(server_port: int) -> Iterator[Proxy]:
    """Run a proxy before a server."""
    with contextlib.closing(Proxy(server_port)) as proxy:
        yield proxy
