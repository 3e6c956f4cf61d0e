"""The pytest plugin, in sessions of its own."""

import json
from pathlib import Path
from typing import Any

import pytest


def test_each_fixture_has_its_number_and_the_record_names_the_test(
    pytester: pytest.Pytester,
) -> None:
    pytester.makepyfile(
        """
        import subprocess, portlease

        def listed():
            return subprocess.check_output([portlease.find_command(), "list"], text=True)

        def test_x(reserved_port, reserved_udp_port, session_reserved_port, reserved_port_factory):
            numbers = {reserved_port, session_reserved_port, reserved_port_factory(),
                       reserved_port_factory(reuse_addr=False)}
            assert len(numbers) == 4
            line = [l for l in listed().splitlines() if l.startswith(str(reserved_port))][0]
            assert "_the_record_names_the_test.py::test_x" in line
            assert str(reserved_udp_port) in listed()

        def test_y(session_reserved_port, session_reserved_udp_port):
            assert "::test_x" not in "".join(
                l for l in listed().splitlines() if str(session_reserved_port) in l)
            assert "session of" in listed()
        """
    )
    pytester.runpytest_subprocess("-q").assert_outcomes(passed=2)


def test_the_numbers_of_a_session_end_with_it(pytester: pytest.Pytester, leases: Any) -> None:
    pytester.makepyfile(
        "def test_x(reserved_port, reserved_port_factory): assert reserved_port_factory()"
    )
    pytester.runpytest_subprocess("-q").assert_outcomes(passed=1)
    assert leases() == []


@pytest.mark.parametrize("dist", ["load", "loadscope"])
def test_eight_workers_have_eight_session_numbers(
    pytester: pytest.Pytester, tmp_path: Path, dist: str
) -> None:
    pytest.importorskip("xdist")
    pytester.makepyfile(
        **{
            f"test_{name}": f"""
            import json, os, pathlib, time, pytest
            # If a test ended before all have begun, its worker could take a second test.
            @pytest.mark.parametrize("n", range(4 if {dist == "load"} else 1))
            def test_x(session_reserved_port, n):
                folder = pathlib.Path({str(tmp_path)!r})
                worker = os.environ["PYTEST_XDIST_WORKER"]
                (folder / worker).write_text(json.dumps(session_reserved_port))
                deadline = time.monotonic() + 120
                while len(list(folder.iterdir())) < 8 and time.monotonic() < deadline:
                    time.sleep(0.01)
            """
            for name in "abcdefgh"
        }
    )
    result = pytester.runpytest_subprocess("-q", "-n", "8", "--dist", dist)
    assert result.ret == 0
    numbers = [json.loads(path.read_text()) for path in tmp_path.glob("gw*")]
    assert len(numbers) == len(set(numbers)) == 8


LEAK = """
    import subprocess, sys, portlease
    def test_leaks(reserved_port):
        server = subprocess.Popen([sys.executable, "-m", "http.server", str(reserved_port)])
        portlease.wait_listening(reserved_port, pid=server.pid, timeout=120)
        print("server", server.pid)
    def test_stops(reserved_port):
        server = subprocess.Popen([sys.executable, "-m", "http.server", str(reserved_port)])
        portlease.wait_listening(reserved_port, pid=server.pid, timeout=120)
        server.kill()
        server.wait()
"""


@pytest.mark.parametrize("by", ["option", "ini", "default"])
def test_a_server_that_outlives_its_test_fails_it_on_request(
    pytester: pytest.Pytester, by: str
) -> None:
    pytester.makepyfile(LEAK)
    # A session that ends kills its server, so that this test leaves nothing.
    pytester.makeconftest(
        """
        import os, re, signal
        def pytest_runtest_logreport(report):
            for pid in re.findall(r"^server (\\d+)", report.capstdout, re.MULTILINE):
                if report.when == "teardown":
                    os.kill(int(pid), signal.SIGKILL)
        """
    )
    if by == "ini":
        pytester.makeini("[pytest]\nportlease_leaks = fail\n")
    option = ["--portlease-leaks=fail"] if by == "option" else []
    result = pytester.runpytest_subprocess(*option)
    if by == "default":
        result.assert_outcomes(passed=2)
    else:
        result.assert_outcomes(passed=2, errors=1)
        result.stdout.fnmatch_lines(["*a reserved port is still in use at the end of its fixture*"])
        result.stdout.fnmatch_lines(["*port */tcp is in use: python* (pid *) listens on *"])


def test_an_unknown_choice_for_leaks_is_an_error(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_x(): pass")
    pytester.makeini("[pytest]\nportlease_leaks = maybe\n")
    result = pytester.runpytest_subprocess()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*portlease_leaks: expected ignore or fail, not 'maybe'*"])


@pytest.mark.parametrize("overridden", [True, False])
def test_the_ports_of_pytest_asyncio_are_reserved_on_request(
    pytester: pytest.Pytester, overridden: bool
) -> None:
    pytest.importorskip("pytest_asyncio")
    pytester.makeini("[pytest]\nasyncio_default_fixture_loop_scope = function\n")
    pytester.makepyfile(
        f"""
        import portlease
        def reserved(port):
            return bool(portlease.who_holds(port)["leases"])
        def test_x(unused_tcp_port, unused_udp_port, unused_tcp_port_factory,
                   unused_udp_port_factory):
            numbers = [unused_tcp_port, unused_udp_port, unused_tcp_port_factory(),
                       unused_udp_port_factory()]
            assert [reserved(port) for port in numbers] == [{overridden}] * 4
        """
    )
    option = ["--portlease-unused-ports"] if overridden else []
    pytester.runpytest_subprocess("-W", "error", *option).assert_outcomes(passed=1)
