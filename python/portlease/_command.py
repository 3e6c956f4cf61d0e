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
    # A virtual environment that was created with --system-site-packages.
    yield Path(sysconfig.get_path("scripts", vars={"base": sys.base_prefix}), name)
    # `pip install --user` and `pip install --target` use folders of their own.
    yield Path(sysconfig.get_path("scripts", f"{os.name}_user"), name)
    yield Path(__file__).resolve().parent.parent / "bin" / name
    on_path = shutil.which(name)
    if on_path is not None:
        yield Path(on_path)


def find_command() -> str:
    """The path of the command that this package installed.

    Raises `Error` if it is missing.
    """
    searched = []
    for place in _places():
        if place.is_file():
            return str(place)
        searched.append(str(place))
    raise Error(f"cannot find the command portlease; searched {', '.join(searched)}, and PATH")


def run(*arguments: str, answers: Tuple[int, ...] = (0,)) -> "subprocess.CompletedProcess[str]":
    """Runs the command and returns its output. Raises `Error` on an exit code outside `answers`."""
    # surrogateescape: a process name or a path need not be UTF-8.
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
    return "\n".join(lines) or f"portlease ended with exit status {completed.returncode}"


def duration(seconds: float) -> str:
    """A duration in the notation of the command's options."""
    if not 0 <= seconds < float("inf"):
        raise ValueError(f"expected a duration in seconds, not {seconds!r}")
    return f"{round(seconds * 1000)}ms"
