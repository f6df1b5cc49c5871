"""Every console example in the pages about the command line, run in order, with the output that the page shows."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

DOCS = Path(__file__).parents[3] / "docs"
MARK = "@@@ end of a command"

# What differs from run to run.
VOLATILE = (
    (re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[57][0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}"), "ID"),
    (re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d+)?Z?"), "MOMENT"),
    (re.compile(r"\b\d+(?:\.\d+)? (?:s|min)\b"), "TIME"),
    (re.compile(r'"seconds": [\d.]+'), '"seconds": TIME'),
    (re.compile(r'version"?: ?\d+'), "VERSION"),
    (re.compile(r'score"?:? [\d.]+'), "SCORE"),
    (re.compile(r"/[\w/.-]+/(?=handbook/|other\.db)"), "FOLDER/"),
    (re.compile(r"\b[\w.-]+:\d+:[0-9a-f]{6}\b"), "WORKER"),
    (re.compile(r"splitter-[\d.]+"), "splitter-RELEASE"),
    (re.compile(r" +"), " "),
)
SLOW = re.compile(
    r"still waiting for a worker|blocks the event loop, for|^perdure: [\d,]+ of [\d,]+ documents?, "
)


def examples(page: str) -> list[tuple[str, list[str]]]:
    """(command, expected lines) of each `$ ` line in the page's console blocks; `>` continues a command."""
    found: list[tuple[str, list[str]]] = []
    for block in re.findall(r"^```console\n(.*?)^```", (DOCS / page).read_text(), re.MULTILINE | re.DOTALL):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append((line[2:], []))
            elif line == ">" or line.startswith("> "):
                found[-1] = (f"{found[-1][0]}\n{line[2:]}", [])
            else:
                found[-1][1].append(line)
    return found


def outputs(commands: list[str], folder: Path) -> list[list[str]]:
    """What each command writes, run one after the other in one shell."""
    programs = folder / "bin"
    programs.mkdir()
    (programs / "perdure").write_text(f'#!/bin/sh\nexec {sys.executable} -m perdure "$@"\n')
    (programs / "perdure").chmod(0o755)
    work = folder / "work"
    work.mkdir()
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PERDURE_")}
    script = "".join(f"{command}\necho '{MARK}'\n" for command in commands)
    done = subprocess.run(
        ["bash", "-c", f"exec 2>&1\n{script}"],
        cwd=work,
        env={**clean, "PATH": f"{programs}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    return [part.strip("\n").splitlines() for part in done.stdout.split(f"{MARK}\n")][:-1]


def steady(lines: list[str]) -> list[str]:
    # Said only where the machine is slow.
    text = "\n".join(line.rstrip() for line in lines if not SLOW.search(line))
    for pattern, name in VOLATILE:
        text = pattern.sub(name, text)
    return [line for line in text.splitlines() if line]


@pytest.mark.parametrize("page", ["tutorial/first-index.md", "reference/cli.md"])
def test_the_pages_show_what_happens(page: str, tmp_path: Path) -> None:
    shown = examples(page)
    assert shown
    real = outputs([command for command, _ in shown], tmp_path)
    assert [(command, steady(lines)) for (command, _), lines in zip(shown, real, strict=True)] == [
        (command, steady(lines)) for command, lines in shown
    ]
