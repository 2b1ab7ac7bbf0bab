"""What the README lets a reader type to mount it and to serve it at a socket.

Run by `make test-hosts`, in a virtual environment of its own.
"""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from ..support.process import environment
from ..support.readme import TEXT, blocks, commands, type_in
from .proofs import prove_answers
from .recipes import FLASK, GUNICORN_AT_SOCKET, NGINX_AT_SOCKET
from .servers import Server, running
from .test_nginx import serving

ANSWER = next(output for output in commands(blocks("console")[0]).values() if output)


def test_flask_finds_the_application_and_serves_it_where_it_says() -> None:
    assert "Save this as `app.py`, then type `pip install . flask` and `flask run`." in TEXT
    (path,) = re.findall(r"http://127\.0\.0\.1:5000(/phoenix/\S+)\.", TEXT)
    command = (sys.executable, "-m", "flask", "run", "--port", "{port}")
    flask = Server(command, files={"app.py": FLASK}, exit_status=-signal.SIGTERM)
    with running(flask, prefix="/phoenix") as port:
        answer = urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10).read()
        assert f"{answer.decode()}\n" == ANSWER


def test_gunicorn_serves_it_at_a_socket_alone_and_behind_nginx(tmp_path: Path) -> None:
    _, install, gunicorn, curl = (
        command.replace("/run/projects", f"{tmp_path}/run").replace("sudo ", "")
        for command in commands(GUNICORN_AT_SOCKET)
    )
    type_in(install, tmp_path)
    program, _, arguments = gunicorn.partition(" ")
    popen = subprocess.Popen(
        f"exec {Path(sys.executable).with_name(program)} --no-control-socket {arguments}",
        shell=True,
        cwd=tmp_path,
        env=environment(),
    )
    try:
        deadline = time.monotonic() + 30
        while not (tmp_path / "run" / "http.sock").exists():
            assert time.monotonic() < deadline
            assert popen.poll() is None
            time.sleep(0.05)
        assert f"{type_in(curl, tmp_path)}\n" == ANSWER
        nginx = serving(NGINX_AT_SOCKET.replace("/run/projects", f"{tmp_path}/run"))
        with running(nginx) as port:
            prove_answers("nginx at a socket", nginx, port)
    finally:
        popen.terminate()
        popen.wait(60)
    assert popen.returncode == 0
