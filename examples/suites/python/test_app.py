"""pytest under the command: portlease run --port APP_PORT --port DOWN_PORT -- pytest"""

import os
import socket
import subprocess
import sys
import urllib.request

import pytest

# The numbers are reserved as long as the command runs, and the servers may come and go.
APP_PORT = int(os.environ["APP_PORT"])
DOWN_PORT = int(os.environ["DOWN_PORT"])


@pytest.fixture
def app(tmp_path):
    (tmp_path / "index.html").write_text("hello")
    server = [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", "--directory", str(tmp_path)]
    with subprocess.Popen([*server, str(APP_PORT)], stderr=subprocess.DEVNULL) as process:
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


def test_a_number_in_the_middle_of_a_program_is_kept_until_it_ends():
    reserve = """if True:
        import os, subprocess
        print(int(subprocess.check_output(["portlease", "reserve", "--pid", str(os.getpid())])), flush=True)
        input()
    """
    with subprocess.Popen([sys.executable, "-c", reserve], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as program:
        port = int(program.stdout.readline())
        assert str(port) in subprocess.check_output(["portlease", "list"], text=True)
        program.communicate(b"\n")
    subprocess.run(["portlease", "wait", "--free", str(port)], check=True)
