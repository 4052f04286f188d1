"""Scripts of jobs in children of a process that has imported what they import: of a tiny job that is the most.

Run with an address and a command of Python's, it has the script done there and ends as the script does. A command that
is no script, or whose environment would have changed what was imported, is left to a Python of its own.
"""

import importlib
import json
import os
import signal
import socket
import sys
from pathlib import Path

PACKAGES = (
    *("torch", "transformers", "transformers.models.olmoe.modeling_olmoe", "numba", "pandas", "xarray", "netCDF4"),
    *("scipy.stats", "scipy.sparse.csgraph", "scipy.optimize", "scipy.cluster.hierarchy", "sklearn.manifold", "umap"),
    *("matplotlib.figure", "matplotlib.backends.backend_svg", "matplotlib.backends.backend_pdf", "jinja2", "pydantic"),
)


def may_fork(command: list[str], environment: dict[str, str]) -> bool:
    """Whether a command is a script, of one thread, that no setting of the hub's library is made for."""
    alone = len(command) == 1 and command[0].endswith(".py") and environment.get("OMP_NUM_THREADS") == "1"
    return alone and environment.get("HF_HUB_OFFLINE") == "1" and not {"HF_HOME", "HF_ENDPOINT"} & environment.keys()


def ask(address: str, script: str) -> int:
    """Have a script done in this process's folder and environment, with its output; returns its exit status."""
    request = json.dumps({"script": script, "folder": str(Path.cwd()), "environment": dict(os.environ)}).encode()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(address)
        socket.send_fds(connection, [len(request).to_bytes(8)], [0, 1, 2])
        connection.sendall(request)
        return int.from_bytes(connection.recv(8))


def become(script: str, folder: str, environment: dict[str, str], files: list[int]) -> None:
    """Let this process be as if Python had been started with the script, and with three open files."""
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    for number, file in enumerate(files):
        os.dup2(file, number)
    sys.argv = [script]
    sys.path[:1] = [str(Path(script).parent), *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))]


def serve(listener: socket.socket) -> str:
    """Fork for every script that is asked for; returns in a child, which is then to run the script."""
    while True:
        connection, _ = listener.accept()
        for name in PACKAGES:
            importlib.import_module(name)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        if not os.fork():  # it waits for the script, and tells how it ended
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            size, files, *_ = socket.recv_fds(connection, 8, 3)
            request = json.loads(connection.recv(int.from_bytes(size), socket.MSG_WAITALL))
            if not (script := os.fork()):
                become(**request, files=files)
                return request["script"]
            code = os.waitstatus_to_exitcode(os.waitpid(script, 0)[1])
            connection.sendall((code if code >= 0 else 128 - code).to_bytes(8))
            os._exit(0)
        connection.close()


if __name__ == "__main__":
    python, address, *command = sys.argv[1:]
    if may_fork(command, dict(os.environ)):
        sys.exit(ask(address, *command))
    os.execv(python, [python, *command])
