"""Runs pgbouncer, through which many clients share a server's few connections."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator

from .cluster import Cluster

SIZE = 2  # connections to the server, for each database and role

CONFIGURATION = """
[databases]
* = host={server.folder} port={server.port}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = trust
auth_file = {folder}/users
pool_mode = transaction
default_pool_size = {size}
"""


@contextlib.contextmanager
def running_pgbouncer(server: Cluster, role: str) -> Iterator[int]:
    """Run pgbouncer before a server, in transaction mode, for one of its roles; give its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    folder = server.folder / "pgbouncer"
    folder.mkdir()
    (folder / "users").write_text(f'"{role}" ""\n')
    (folder / "ini").write_text(CONFIGURATION.format(server=server, port=port, folder=folder, size=SIZE))
    program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
    assert program is not None, "there is no pgbouncer; see make test-faults"
    with (
        (folder / "log").open("wb") as log,
        subprocess.Popen([program, folder / "ini"], stderr=log, **server.account) as process,
    ):
        try:
            deadline = time.monotonic() + 10
            while not _listens(port):
                assert time.monotonic() < deadline, (folder / "log").read_text()
                time.sleep(0.01)
            yield port
        finally:
            process.terminate()
    shutil.rmtree(folder)


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except ConnectionRefusedError:
        return False
    return True
