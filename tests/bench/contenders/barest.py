"""The barest server: wsgiref and sqlite3 in one script; answers GET by id and nothing else."""

import json
import sqlite3
import sys
from base64 import b64decode
from wsgiref.simple_server import WSGIRequestHandler, make_server

file, port = sys.argv[1:]
connection = sqlite3.connect(file)


class QuietHandler(WSGIRequestHandler):
    def log_message(self, *_):
        pass


def app(environ, start_response):
    identifier = environ["PATH_INFO"].rpartition("/")[2]
    number = int(b64decode(identifier).decode().partition(":")[2])
    query = "SELECT name, description FROM projects WHERE id = ?"
    name, description = connection.execute(query, (number,)).fetchone()
    body = json.dumps({"data": {"name": name, "description": description, "id": identifier}}).encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]


make_server("127.0.0.1", int(port), app, handler_class=QuietHandler).serve_forever()
