"""Forks the product's processes from one that has imported everything: `python -m tests.support.fork_server FD`.

A start of Python and all its modules takes most of a second, a fork some milliseconds. Requests and answers are JSON,
one a packet, over the socket with the descriptor FD. What is forked knows nothing of this.
"""

import gc
import importlib
import json
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any, NoReturn

import main
import settings

PRELOAD = (
    "alembic.migration",
    "alembic.operations",
    "asyncssh",
    "commands.connectors",
    "fastapi_offline",
    "file_processing.inbound.formats.edi.edifact",
    "file_processing.inbound.formats.edi.x12",
    "httpx",
    "services.api.app",
    "services.api.server",
    "services.destinations.rest",
    "services.destinations.sftp",
    "services.observer.watch",
    "services.sources.master",
    "services.sources.rest",
    "services.sources.sftp",
    "uvicorn.lifespan.off",
    "uvicorn.loops.auto",
    "uvicorn.protocols.http.auto",
)
BUFFER_BYTES = 1 << 20


def serve(requests: socket.socket) -> None:
    while request := requests.recv(BUFFER_BYTES):
        requests.send(json.dumps(_answer(requests, json.loads(request))).encode())


def _answer(requests: socket.socket, request: dict[str, Any]) -> dict[str, Any]:
    if "reap" in request:
        _, status = os.waitpid(request["reap"], 0)
        return {"code": os.waitstatus_to_exitcode(status)}
    pid = os.fork()
    if pid == 0:
        requests.close()
        _become(request)
    return {"pid": pid}


def _become(request: dict[str, Any]) -> NoReturn:
    """The process that was asked for."""
    code: object = 1
    try:
        log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.chdir(request["cwd"])
        os.environ.clear()
        os.environ.update(request["env"])
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        if request["faults"]:
            patches = importlib.import_module(request["faults"]).POINTS[request["point"]]
            for patch in patches if isinstance(patches, tuple) else (patches,):
                patch()
        sys.argv = [str(main.__file__), *request["arguments"]]
        main.process()
    except SystemExit as leaving:
        code = leaving.code
    except BaseException:  # noqa: BLE001  # as the interpreter does
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 1 if code else 0)


if __name__ == "__main__":
    settings.ENV_FILE = Path("/dev/null/.env")  # a developer's own is nothing to the tests
    for name in (*PRELOAD, *(place.partition(":")[0] for place, _ in main.COMMANDS.values())):
        importlib.import_module(name)
    gc.freeze()
    serve(socket.socket(fileno=int(sys.argv[1])))
