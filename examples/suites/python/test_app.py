"""Run it with: portlease run --port APP_PORT --port DOWN_PORT -- pytest"""

import os
import socket
import subprocess
import sys
import urllib.request

import pytest

# The ports stay reserved while `portlease run` runs, so servers can stop and start again.
APP_PORT = int(os.environ["APP_PORT"])
DOWN_PORT = int(os.environ["DOWN_PORT"])


@pytest.fixture
def app(tmp_path):
    (tmp_path / "index.html").write_text("hello")
    server = [sys.executable, "-m", "http.server", "--bind", "127.0.0.1"]
    server += ["--directory", str(tmp_path), str(APP_PORT)]
    with subprocess.Popen(server, stderr=subprocess.DEVNULL) as process:
        wait = ["wait", "--listening", "--pid", str(process.pid), str(APP_PORT)]
        subprocess.run(["portlease", *wait], check=True)
        yield f"http://127.0.0.1:{APP_PORT}/"
        process.terminate()


@pytest.mark.parametrize("start", range(3))
def test_the_server_is_started_again_on_its_number(app, start):
    with urllib.request.urlopen(app, timeout=30) as answer:
        assert answer.read() == b"hello"


def test_a_reserved_number_refuses_while_nothing_listens():
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", DOWN_PORT), timeout=30)


def test_a_port_reserved_in_mid_program_is_held_until_the_program_ends():
    reserve = """if True:
        import os, subprocess
        reserve = ["portlease", "reserve", "--pid", str(os.getpid())]
        print(int(subprocess.check_output(reserve)), flush=True)
        input()
    """
    command = [sys.executable, "-c", reserve]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as program:
        port = int(program.stdout.readline())
        assert str(port) in subprocess.check_output(["portlease", "list"], text=True)
        program.communicate(b"\n")
    subprocess.run(["portlease", "wait", "--free", str(port)], check=True)
