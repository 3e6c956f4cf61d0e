"""The module: `reserve` and its relatives, and the questions."""

import multiprocessing
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Callable, Tuple

import pytest

import portlease


def listen(port: int) -> socket.socket:
    """A server that sets SO_REUSEADDR, as nearly all do."""
    return socket.create_server(("127.0.0.1", port))


def is_reserved(leases: Any, port: int) -> bool:
    return any(lease["port"] == port for lease in leases())


def until(condition: Callable[[], bool], seconds: float = 60.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def test_a_server_binds_a_reserved_port_again_and_again(leases: Any) -> None:
    with portlease.reserve() as reserved:
        assert reserved.guarantee == "kernel"
        for _ in range(3):
            listen(reserved.port).close()
        assert is_reserved(leases, reserved.port)
    assert not is_reserved(leases, reserved.port)


def test_a_number_that_is_reserved_is_refused_and_its_owner_named() -> None:
    with portlease.reserve(label="the first") as reserved:
        with pytest.raises(portlease.Error, match=f"cannot reserve {reserved.port}/tcp.*the first"):
            portlease.reserve(port=reserved.port)
    with portlease.reserve(port=reserved.port) as again:
        assert again.port == reserved.port


def test_many_are_different_and_a_block_is_consecutive(leases: Any) -> None:
    many = portlease.reserve_many(5)
    assert len({reserved.port for reserved in many}) == 5
    many[0].release()
    assert [is_reserved(leases, reserved.port) for reserved in many] == [False] + [True] * 4
    block = portlease.reserve_many(3, block=True)
    assert [reserved.port - block[0].port for reserved in block] == [0, 1, 2]
    for reserved in many + block:
        reserved.release()
    assert leases() == []


def test_a_udp_port_is_bound_by_number() -> None:
    with portlease.reserve_udp() as reserved:
        assert reserved.protocol == "udp"
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
            server.bind(("127.0.0.1", reserved.port))


def test_a_server_without_reuse_addr_binds_its_port() -> None:
    with portlease.reserve(reuse_addr=False) as reserved, socket.socket() as server:
        server.bind(("127.0.0.1", reserved.port))
    with portlease.reserve() as reserved, socket.socket() as server:
        with pytest.raises(OSError):  # The control.
            server.bind(("127.0.0.1", reserved.port))


def test_a_name_stands_for_one_number_in_each_project(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # Numbers of other runs of this test must not be in the way.
    monkeypatch.setenv("PORTLEASE_PROJECT", str(tmp_path))
    with portlease.named("db") as first, portlease.named("cache") as other:
        assert (first.first_choice, other.port != first.port) == (first.port, True)
        with portlease.named("db") as second:
            assert (second.first_choice, second.port != first.port) == (first.port, True)
    with portlease.named("db") as again:
        assert again.port == first.port
    monkeypatch.setenv("PORTLEASE_PROJECT", f"{tmp_path}/other")
    with portlease.named("db") as elsewhere:
        assert elsewhere.port != first.port


def test_the_name_of_the_test_is_in_the_record(leases: Any) -> None:
    with portlease.reserve() as reserved:
        [lease] = leases()
    assert lease["port"] == reserved.port
    assert lease["label"].endswith("test_the_name_of_the_test_is_in_the_record")


def test_a_second_release_has_no_effect_and_a_lost_port_is_reported() -> None:
    reserved = portlease.reserve()
    reserved.release()
    reserved.release()
    lost = portlease.reserve()
    subprocess.run([portlease.find_command(), "release", str(lost.port)], check=True)
    with pytest.raises(portlease.Error, match="no reservation of port"):
        lost.release()


HOLD = "import portlease; print(portlease.reserve().port, flush=True); input()"


def test_the_port_of_a_killed_process_is_released(leases: Any) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with holder:
        assert holder.stdout is not None
        port = int(holder.stdout.readline())
        assert is_reserved(leases, port)
        holder.kill()
    assert holder.returncode == -signal.SIGKILL
    assert until(lambda: not is_reserved(leases, port)), leases()


def reserve_in_child(inherited: portlease.Reservation, results: Any) -> None:
    inherited.release()  # No effect: the reservation belongs to the parent.
    results.put((inherited.port, portlease.reserve().port))
    results.close()
    results.join_thread()


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_child_reserves_for_itself_and_releases_nothing_of_its_parent(
    method: str, leases: Any
) -> None:
    context: Any = multiprocessing.get_context(method)
    results: "multiprocessing.Queue[Tuple[int, int]]" = context.Queue()
    with portlease.reserve() as reserved:
        child = context.Process(target=reserve_in_child, args=(reserved, results))
        child.start()
        inherited, own = results.get(timeout=60)
        child.join(60)
        assert child.exitcode == 0
        assert (inherited, own != reserved.port) == (reserved.port, True)
        assert is_reserved(leases, reserved.port)
        assert until(lambda: not is_reserved(leases, own)), "the child's port ends with it"
    assert pickle.loads(pickle.dumps(reserved)).port == reserved.port


def test_a_block_that_a_forked_child_leaves_stays_reserved(leases: Any) -> None:
    with portlease.reserve() as reserved:
        child = os.fork()
        if child == 0:
            reserved.__exit__(None, None, None)
            os._exit(0)
        os.waitpid(child, 0)
        assert is_reserved(leases, reserved.port)


AS_PID_1 = """
import os, portlease
assert os.getpid() == 1
for _ in range(3):
    portlease.reserve().release()
for reserved in portlease.reserve_many(2):
    reserved.release()
states = [open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[0]
          for pid in os.listdir("/proc") if pid.isdigit()]
print("zombies", states.count("Z"))
"""


def test_pid_1_of_a_container_keeps_no_zombie_of_a_released_port() -> None:
    container = ["unshare", "--map-root-user", "--pid", "--fork", "--mount-proc"]
    if subprocess.run([*container, "true"], capture_output=True).returncode != 0:
        pytest.skip("no pid namespace")
    output = subprocess.check_output([*container, sys.executable, "-c", AS_PID_1], text=True)
    assert output == "zombies 0\n"


def test_who_holds_names_the_process_that_listens() -> None:
    with portlease.reserve(label="mine") as reserved:
        with listen(reserved.port):
            report = portlease.who_holds(reserved.port)
        first = report["holders"][0]
        assert (first["state"], first["processes"][0]["pid"]) == ("listen", os.getpid())
        assert report["leases"][0]["label"] == "mine"
    assert portlease.who_holds(reserved.port)["holders"] == []


def test_the_types_name_every_key_of_the_answer() -> None:
    with portlease.reserve() as reserved, listen(reserved.port):
        report = portlease.who_holds(reserved.port)
    holder = report["holders"][0]
    for answer, kind in [
        (report, portlease.Report),
        (holder, portlease.Holder),
        (holder["processes"][0], portlease.Process),
        (report["leases"][0], portlease.Lease),
    ]:
        assert sorted(answer) == sorted(kind.__annotations__)


def test_a_port_in_use_is_reported_with_its_holder() -> None:
    with portlease.reserve() as reserved:
        portlease.check_free(reserved.port, f"{reserved.port}/udp")
        with listen(reserved.port):
            with pytest.raises(portlease.PortInUse) as error:
                portlease.check_free(reserved.port)
        portlease.check_free(reserved.port, wait=60)
    assert f"(pid {os.getpid()}) listens on 127.0.0.1:{reserved.port}" in str(error.value)


def test_a_wait_ends_when_the_server_listens_or_when_time_is_up() -> None:
    with portlease.reserve() as reserved:
        with pytest.raises(portlease.NotListening) as error:
            portlease.wait_listening(reserved.port, timeout=0.05)
        assert isinstance(error.value, TimeoutError)
        assert f"port {reserved.port}/tcp is not listening" in str(error.value)
        server = [sys.executable, "-m", "http.server", str(reserved.port)]
        with subprocess.Popen(server, stderr=subprocess.DEVNULL) as process:
            portlease.wait_listening(reserved.port, pid=process.pid, timeout=120)
            process.kill()
        with pytest.raises(portlease.Error, match=f"by pid {process.pid}"):
            portlease.wait_listening(reserved.port, pid=process.pid)


@pytest.mark.parametrize("port", [0, 65536, "x", -1])
def test_a_bad_port_is_an_error_that_names_it(port: Any) -> None:
    with pytest.raises(portlease.Error, match=str(port)):
        portlease.check_free(port)
    with pytest.raises(portlease.Error, match=str(port)):
        portlease.reserve(port=port)


@pytest.mark.parametrize("seconds", [-1.0, float("nan"), float("inf")])
def test_a_bad_duration_is_an_error_that_names_it(seconds: float) -> None:
    with pytest.raises(ValueError, match=str(seconds)):
        portlease.reserve(wait=seconds)
