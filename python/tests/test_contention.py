"""Eight workers of pytest-xdist, 300 ephemeral ports, and a neighbour that draws them."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import List, Tuple

import pytest

HERE = Path(__file__).parent / "contention"
TESTS = int(os.environ.get("PORTLEASE_CONTENTION_TESTS", "200"))

IN_NAMESPACE = """
ip link set lo up
echo 33000 33299 >/proc/sys/net/ipv4/ip_local_port_range
exec "$@"
"""


def in_namespace(*command: str) -> List[str]:
    return ["unshare", "--net", "sh", "-ec", IN_NAMESPACE, "sh", *command]


# The neighbour ends when its stdin is closed. It then writes how many ports it has drawn to a file.
BESIDE_NEIGHBOUR = """
mkfifo "$SCRATCH/stdin"
"$PYTHON" "$HERE/neighbour.py" <"$SCRATCH/stdin" >"$SCRATCH/drawn" &
exec 3>"$SCRATCH/stdin"
status=0
"$PYTHON" -m pytest -q -p no:cacheprovider -W ignore -n 8 "$@" "$HERE/suite.py" || status=$?
exec 3>&-
wait
exit "$status"
"""


def lost(scratch: Path, fixture: str, *options: str) -> Tuple[int, int]:
    """How many tests lost their number, and how many ports the neighbour drew meanwhile."""
    scratch.mkdir()
    environment = dict(
        os.environ,
        SCRATCH=str(scratch),
        PYTHON=sys.executable,
        HERE=str(HERE),
        CONTENTION_FIXTURE=fixture,
        CONTENTION_TESTS=str(TESTS),
        PYTHONDONTWRITEBYTECODE="1",
    )
    environment.pop("PYTEST_CURRENT_TEST", None)
    command = in_namespace("sh", "-ec", BESIDE_NEIGHBOUR, "sh", *options)
    output = subprocess.run(
        command, cwd=scratch, env=environment, stdout=subprocess.PIPE, text=True
    ).stdout
    counts = {word: int(n) for n, word in re.findall(r"(\d+) (passed|failed|error)", output)}
    number = counts.get("failed", 0)
    assert counts.get("passed", 0) + number == TESTS and "error" not in counts, output[-4000:]
    assert output.count("lost: ") >= number, output[-4000:]
    drawn = int((scratch / "drawn").read_text())
    print(f"{fixture} {' '.join(options)}: {number} of {TESTS} lost, the neighbour drew {drawn}")
    return number, drawn


@pytest.mark.parametrize("dist", ["load", "loadscope"])
def test_no_worker_loses_its_number(
    tmp_path: Path, dist: str, capsys: "pytest.CaptureFixture[str]"
) -> None:
    pytest.importorskip("xdist")
    pytest.importorskip("pytest_asyncio")
    if subprocess.run(in_namespace("true"), capture_output=True).returncode != 0:
        pytest.skip("no network namespace")
    with capsys.disabled():
        number, drawn = lost(tmp_path / "reserved", "reserved_port", "--dist", dist)
    assert (number, drawn > TESTS) == (0, True)
    if dist == "load":
        # The control: the fixture of pytest-asyncio binds port 0, and closes the socket.
        with capsys.disabled():
            number, _ = lost(tmp_path / "control", "unused_tcp_port", "--dist", dist)
        assert number > 0
