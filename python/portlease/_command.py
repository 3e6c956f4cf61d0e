"""Finds the command `portlease`, and runs it."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Iterator, Tuple


class Error(RuntimeError):
    """The command failed. The text is its report: what happened, and what to do."""


def _places() -> Iterator[Path]:
    name = "portlease"
    yield Path(sysconfig.get_path("scripts"), name)
    # A virtual environment with --system-site-packages finds the package of its base installation.
    yield Path(sysconfig.get_path("scripts", vars={"base": sys.base_prefix}), name)
    # `pip install --user` and `pip install --target` use folders of their own.
    yield Path(sysconfig.get_path("scripts", f"{os.name}_user"), name)
    yield Path(__file__).resolve().parent.parent / "bin" / name
    on_path = shutil.which(name)
    if on_path is not None:
        yield Path(on_path)


def find_command() -> str:
    """Returns the path of the command that this package installed, or of one on PATH.

    Raises `Error` if there is none.
    """
    searched = []
    for place in _places():
        if place.is_file():
            return str(place)
        searched.append(str(place))
    raise Error(
        f"cannot find the command portlease in PATH or at {', '.join(searched)}: "
        "install the package portlease again"
    )


def run(*arguments: str, answers: Tuple[int, ...] = (0,)) -> "subprocess.CompletedProcess[str]":
    """Runs the command and returns its output. Raises `Error` on an exit code outside `answers`."""
    # surrogateescape, because a process name or a path may contain bytes that are not UTF-8.
    completed = subprocess.run(
        [find_command(), "--color=never", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        errors="surrogateescape",
        check=False,
    )
    if completed.returncode not in answers:
        raise Error(_failure(completed))
    return completed


def _failure(completed: "subprocess.CompletedProcess[str]") -> str:
    prefix = "portlease: "
    error = completed.stderr.strip()
    if error.startswith(prefix):
        error = error[len(prefix) :]
    lines = [text for text in (error, completed.stdout.strip()) if text]
    ended = f"the command portlease ended with exit status {completed.returncode}"
    return "\n".join(lines) or ended


def duration(seconds: float) -> str:
    """Formats a duration as the options of the command expect it."""
    if not 0 <= seconds < float("inf"):
        raise ValueError(f"expected a duration in seconds, not {seconds!r}")
    return f"{round(seconds * 1000)}ms"
