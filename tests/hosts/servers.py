"""The servers that are not ours, and how to run one."""

from __future__ import annotations

import contextlib
import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import projects_wsgi

from ..support.replay import sending_to_server

PACKAGE = Path(projects_wsgi.__file__).parent
START_SECONDS = 60.0
STOP_SECONDS = 120.0  # some give those who are at work a minute


class Server(NamedTuple):
    """A program that serves main.py from the folder where it runs, beside a copy of the package.

    command: its words, in which {port} and {folder} stand for themselves.
    files: the further ones that it needs, by name, with the same placeholders.
    undoes_chunks: whether the application can read a chunked body.
    skips_unread_chunks: whether the chunks that the application left unread pass for no request.
    is_kept_alive: whether a connection goes on after each answer that does not say otherwise.
    exit_status: with which SIGTERM ends it; the signal's own where it does not handle that.
    """

    command: tuple[str, ...]
    files: Mapping[str, str] = MappingProxyType({})
    undoes_chunks: bool = True
    skips_unread_chunks: bool = True
    is_kept_alive: bool = True
    exit_status: int = 0


def _python(*arguments: str, **differences: Any) -> Server:
    return Server((sys.executable, *arguments), **differences)


def _gunicorn(*arguments: str) -> Server:
    return _python("-m", "gunicorn", "--bind", "127.0.0.1:{port}", "--no-control-socket", *arguments, "main")


_WSGIREF = """\
import sys
from wsgiref.simple_server import make_server
from main import application

make_server("127.0.0.1", int(sys.argv[1]), application).serve_forever()
"""

_VALIDATED = """\
import sys
from wsgiref.simple_server import make_server
from wsgiref.validate import validator
from main import application

make_server("127.0.0.1", int(sys.argv[1]), validator(application)).serve_forever()
"""

# To be stopped while it starts is a failure to CherryPy.
_CHERRYPY = """\
import signal
import sys
import cherrypy
import main

cherrypy.config.update({"server.socket_port": int(sys.argv[1]), "server.socket_timeout": 60})
cherrypy.config.update({"engine.autoreload.on": False})
cherrypy.engine.signals.subscribe()
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
cherrypy.engine.start()
signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
cherrypy.engine.block()
"""

_APACHE = """\
ServerName localhost
Listen 127.0.0.1:{port}
User www-data
Group www-data
DefaultRuntimeDir {folder}
PidFile {folder}/apache.pid
ErrorLog /dev/stderr
KeepAliveTimeout 60
MaxKeepAliveRequests 0
LoadModule mpm_event_module /usr/lib/apache2/modules/mod_mpm_event.so
LoadModule authz_core_module /usr/lib/apache2/modules/mod_authz_core.so
LoadModule wsgi_module /usr/lib/apache2/modules/mod_wsgi.so
AllowEncodedSlashes On
TraceEnable Off
WSGIChunkedRequest On
WSGIPassAuthorization On
WSGISocketPrefix {folder}/wsgi
WSGIDaemonProcess projects processes=2 threads=4 home={folder} python-path={folder}
WSGIScriptAlias / {folder}/main.py process-group=projects application-group=%{GLOBAL}
<Directory {folder}>
    Require all granted
</Directory>
"""

SERVERS = {
    "wsgiref": _python("-c", _WSGIREF, "{port}", undoes_chunks=False, exit_status=-signal.SIGTERM),
    "wsgiref.validate": _python("-c", _VALIDATED, "{port}", undoes_chunks=False, exit_status=-signal.SIGTERM),
    "waitress": _python(
        *("-m", "waitress", "--listen", "127.0.0.1:{port}", "main:application"),
        exit_status=-signal.SIGTERM,
    ),
    "gunicorn": _gunicorn("--workers", "2"),
    "gunicorn --preload": _gunicorn("--workers", "2", "--preload"),
    "gunicorn --threads": _gunicorn("--threads", "4", "--keep-alive", "60"),
    "uWSGI": Server(
        (
            *(str(Path(sys.executable).with_name("uwsgi")), "--http", "127.0.0.1:{port}"),
            *("--module", "main", "--need-app", "--master", "--processes", "2", "--die-on-term"),
            *("--buffer-size", "32768"),  # by default it hangs up on a path of more than 4,096 bytes
        ),
        undoes_chunks=False,
        is_kept_alive=False,
    ),
    "cheroot": _python(
        *("-m", "cheroot", "--bind", "127.0.0.1:{port}", "--timeout", "60", "main"),
        skips_unread_chunks=False,
        exit_status=-signal.SIGTERM,
    ),
    # Where the application did not read the body, it may hang up without saying so.
    "granian": _python(
        *("-m", "granian", "--interface", "wsgi", "--no-ws", "--port", "{port}"),
        *("--blocking-threads", "4", "main:application"),
        is_kept_alive=False,
    ),
    "mod_wsgi": Server(
        ("/usr/sbin/apache2", "-d", "{folder}", "-f", "{folder}/apache.conf", "-D", "FOREGROUND"),
        files={"apache.conf": _APACHE},
    ),
}

CHERRYPY = _python("-c", _CHERRYPY, "{port}", skips_unread_chunks=False)
UVICORN = _python(
    *("-m", "uvicorn", "--port", "{port}", "--timeout-keep-alive", "60", "main:app"),
    undoes_chunks=False,  # it does, but a2wsgi does not say so to the application
    exit_status=-signal.SIGTERM,
)


def reserve_port() -> int:
    """Return a port that is free, and for a minute given only to who asks for it by its number."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client:
            # The side that closes first keeps the port in TIME_WAIT.
            listener.accept()[0].close()
            client.recv(1)
    return port


@contextlib.contextmanager
def running(server: Server, module: str = "", *, prefix: str = "") -> Iterator[int]:
    """Run a server on a free port; give the port when it answers below the prefix.

    module: the text of main.py. The server must end as it should, and have logged no traceback.
    """
    port = reserve_port()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o777)  # for servers that change to another user
        shutil.copytree(PACKAGE, folder / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__"))
        for file, text in {"main.py": module, **server.files}.items():
            (folder / file).write_text(_filled(text, port, folder), encoding="utf-8")
        with (folder / "log").open("w+", encoding="utf-8") as log:
            popen = subprocess.Popen(
                [_filled(word, port, folder) for word in server.command],
                cwd=folder,
                env={**os.environ, "HOME": name},  # where gunicorn would else make a folder
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
            try:
                _wait_until_it_answers(popen, port, prefix)
                yield port
                popen.terminate()
                popen.wait(STOP_SECONDS)
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(popen.pid, signal.SIGKILL)  # its workers as well
                popen.wait()
                log.seek(0)
                logged = log.read()
                print(logged)  # which pytest shows when something failed
        assert popen.returncode == server.exit_status
        assert "Traceback" not in logged


def _filled(text: str, port: int, folder: Path) -> str:
    return text.replace("{port}", str(port)).replace("{folder}", str(folder))


def _wait_until_it_answers(popen: subprocess.Popen[bytes], port: int, prefix: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        assert popen.poll() is None, "the server has ended"
        with (
            contextlib.suppress(OSError, http.client.HTTPException),
            sending_to_server("127.0.0.1", port, prefix=prefix) as send,
        ):
            if send("GET", "/healthz", {}, None).status == 200:
                return
        time.sleep(0.02)
    raise AssertionError("the server does not answer")
