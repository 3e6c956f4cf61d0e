"""What the package carries, and the lines of its README."""

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import portlease


def test_the_version_is_that_of_the_command() -> None:
    output = subprocess.check_output([portlease.find_command(), "--version"], text=True)
    assert output == f"portlease {portlease.__version__}\n"


def test_the_command_comes_from_the_wheel_and_is_linked_statically() -> None:
    command = portlease.find_command()
    files = importlib.metadata.files("portlease") or []
    assert command in [str(Path(file.locate()).resolve()) for file in files]
    program = Path(command).read_bytes()
    assert program.startswith(b"\x7fELF")
    assert b"/ld-linux" not in program and b"/ld-musl" not in program


def test_the_package_names_its_licences_and_depends_on_nothing() -> None:
    metadata = importlib.metadata.metadata("portlease")
    assert metadata["License-Expression"] == "MIT OR Apache-2.0"
    assert sorted(metadata.get_all("License-File") or []) == ["LICENSE-APACHE", "LICENSE-MIT"]
    assert importlib.metadata.requires("portlease") is None
    assert Path(portlease.__file__).with_name("py.typed").exists()


def test_the_lines_of_the_readme_work(tmp_path: Path) -> None:
    metadata = importlib.metadata.distribution("portlease").read_text("METADATA")
    assert metadata is not None
    code = metadata.split("```python\n")[1].split("```")[0]
    command = [sys.executable, "-I", "-c", code]
    done = subprocess.run(
        command, cwd=tmp_path, env=os.environ, capture_output=True, text=True, check=True
    )
    # The server's own line comes first.
    assert done.stdout.splitlines()[-1].startswith("python"), done
