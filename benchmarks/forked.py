"""Python that has imported mfal already: a job that is forked from it costs a tenth of one that starts anew.

    python -m benchmarks.forked serve SOCKET                     # imports, then forks for whoever asks
    python -I -S benchmarks/forked.py SOCKET MODULE ARGUMENT...  # as `python -m MODULE ARGUMENT...`, from this shell

The fork works in the folder, with the environment and the output of who asked, and ends when he does.
"""

from __future__ import annotations

import array
import json
import os
import signal
import socket
import sys
from importlib import import_module


def ask(path: str, words: list[str], output: int, environment: dict[str, str]) -> tuple[int, socket.socket]:
    """A process that runs a module with its arguments; it ends at the latest when the connection is closed."""
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(path)
    order = json.dumps([words, os.getcwd(), environment]).encode()
    fds = array.array("i", [output])
    connection.sendmsg([len(order).to_bytes(8, "big")], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
    connection.sendall(order)
    return int.from_bytes(_receive(connection, 8), "big"), connection


def end(connection: socket.socket) -> int:
    """Waits for it, and gives its exit status; 137 if it was killed."""
    status = connection.recv(1)
    return status[0] if status else 137


def _receive(connection: socket.socket, size: int) -> bytes:
    received = b""
    while len(received) < size:
        part = connection.recv(size - len(received))
        if not part:
            raise ConnectionError
        received += part
    return received


def serve(path: str) -> None:
    for module in ("flows.campaign", "flows.cli", "flows.engines.surrogate", "jobflow_remote.jobs.run"):
        import_module(module)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the dead are buried by the kernel
    server = socket.socket(socket.AF_UNIX)
    server.bind(path)
    server.listen(64)
    while True:
        connection, _ = server.accept()
        if os.fork():
            connection.close()
            continue
        server.close()
        status = 1
        try:
            status = _become(connection)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            connection.sendall(bytes([status]))
            os._exit(status)


def _become(connection: socket.socket) -> int:
    import runpy
    import threading
    import traceback

    head, controls, _, _ = connection.recvmsg(8, socket.CMSG_SPACE(4))
    [output] = array.array("i", controls[0][2])
    words, folder, environment = json.loads(_receive(connection, int.from_bytes(head, "big")))
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    threading.Thread(target=_with, args=(connection,), daemon=True).start()
    connection.sendall(os.getpid().to_bytes(8, "big"))
    sys.argv = words
    try:
        runpy.run_module(words[0], run_name="__main__", alter_sys=True)
    except SystemExit as leave:
        return leave.code if isinstance(leave.code, int) else int(leave.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def _with(connection: socket.socket) -> None:
    """Die when whoever asked does."""
    connection.recv(1)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(sys.argv[2])
    else:
        _, asked = ask(sys.argv[1], sys.argv[2:], 1, dict(os.environ))
        sys.exit(end(asked))
