"""What the tests of the package share. They run where the built wheel is installed."""

import json
import os
import subprocess
from typing import Any, Dict, List

import pytest

import portlease

pytest_plugins = ["pytester"]

# If the machine lacks what a test needs, the test is skipped. Its name and the reason are printed,
# and appended to this file if the variable is set.
SKIPS = os.environ.get("PORTLEASE_SKIPS")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: "pytest.CallInfo[None]") -> Any:
    report = yield
    if report.skipped and isinstance(report.longrepr, tuple):
        line = f"skipped: python-{item.name}: {report.longrepr[2].replace('Skipped: ', '')}\n"
        print(line, end="")
        if SKIPS:
            with open(SKIPS, "a", encoding="utf-8") as skips:
                skips.write(line)
    return report


@pytest.fixture
def leases() -> Any:
    """Lists the live reservations of this machine."""

    def list_leases() -> List[Dict[str, Any]]:
        command = [portlease.find_command(), "list", "--json"]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
        answer: List[Dict[str, Any]] = json.loads(output)["leases"]
        return answer

    return list_leases


@pytest.fixture(autouse=True)
def own_lock_folder(tmp_path_factory: pytest.TempPathFactory, monkeypatch: Any) -> None:
    """Reservations of other processes must not affect the lists of a test."""
    monkeypatch.setenv("PORTLEASE_DIR", str(tmp_path_factory.mktemp("locks")))
