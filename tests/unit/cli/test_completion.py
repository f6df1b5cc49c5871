"""Completion in a real shell, as the page on the command line sets it up."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[3] / "docs/reference/cli.md"
LINE = re.search(r"\*\*Completion\.\*\* `(.+?)`", PAGE.read_text())[1]  # type: ignore[index]  # it is there


def completed(folder: Path, *words: str) -> set[str]:
    """What bash offers for the last of the words."""
    shim = folder / "perdure"
    shim.write_text(f'#!/bin/sh\nexec {sys.executable} -m perdure "$@"\n')
    shim.chmod(0o755)
    asked = f"COMP_WORDS=(perdure {' '.join(words)}); COMP_CWORD={len(words)}"
    done = subprocess.run(
        ["bash", "-c", f'{LINE}; {asked}; _perdure_completion perdure; printf "%s\\n" "${{COMPREPLY[@]}}"'],
        env=os.environ | {"PATH": f"{folder}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stdout.split())


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (("work",), {"worker"}),
        (("jobs", "ca"), {"cancel"}),
        (("jobs", "list", "--old"), {"--oldest-first"}),
        (("jobs", "list", "--status", "fa"), {"failed"}),
    ],
    ids=["command", "command of a group", "option", "choice"],
)
def test_bash_completes_commands_options_and_choices(
    tmp_path: Path, words: tuple[str, ...], offered: set[str]
) -> None:
    assert completed(tmp_path, *words) == offered
