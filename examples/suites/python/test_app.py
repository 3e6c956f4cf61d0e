"""Run it with any number of workers: pytest -n 4

The fixtures come from the package portlease. Each test has a number of its own.
"""

import os
import socket
import subprocess
import sys
import urllib.request

import portlease
import pytest

WORKER = f"{os.environ.get('PYTEST_XDIST_WORKER', 'main')}, pid {os.getpid()}"


@pytest.fixture
def app(reserved_port, tmp_path):
    (tmp_path / "index.html").write_text(WORKER)
    server = [sys.executable, "-m", "http.server", "--bind", "127.0.0.1"]
    server += ["--directory", str(tmp_path), str(reserved_port)]
    with subprocess.Popen(server, stderr=subprocess.DEVNULL) as process:
        portlease.wait_listening(reserved_port, pid=process.pid)
        yield f"http://127.0.0.1:{reserved_port}/"
        process.terminate()


@pytest.mark.parametrize("n", range(12))
def test_the_server_of_this_worker_answers(app, n):
    with urllib.request.urlopen(app, timeout=30) as answer:
        assert answer.read().decode() == WORKER


def test_a_reserved_number_refuses_while_nothing_listens(reserved_port):
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", reserved_port), timeout=30)
