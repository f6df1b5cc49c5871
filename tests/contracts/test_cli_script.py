"""The twenty lines of the how-to, on every store and against a server: each writes what the page says."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.servers.cosmos import emulator_url
from tests.servers.mongodb import mongodb_url
from tests.servers.postgres import fresh_database
from tests.servers.redis import fresh, redis_url

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

PAGE = Path(__file__).parents[2] / "docs/how-to/script-the-command-line.md"
SCRIPT = re.search(r"```sh\n(.*?)```", PAGE.read_text(), re.DOTALL)[1]  # type: ignore[index]  # it is there
MARK = "@@@ the end of a line"
# As much of jq as the page uses.
JQ = """
import json, re, sys
decoder, text = json.JSONDecoder(), sys.stdin.read().strip()
while text:
    value, end = decoder.raw_decode(text)
    text = text[end:].strip()
    for step in re.findall(r"\\w+", sys.argv[-1]):
        value = value[int(step) if isinstance(value, list) else step]
    print(value if isinstance(value, str) else json.dumps(value))
"""


def environment(folder: Path, **settings: str) -> dict[str, str]:
    programs = folder / "bin"
    programs.mkdir(exist_ok=True)
    for name, code in (("perdure", "-m perdure"), ("jq", f"{folder / 'jq.py'}")):
        (programs / name).write_text(f'#!/bin/sh\nexec {sys.executable} {code} "$@"\n')
        (programs / name).chmod(0o755)
    (folder / "jq.py").write_text(JQ)
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PERDURE_")}
    quick = {"PERDURE_EMBEDDER": "hashing", "PERDURE_POLL_SECONDS": "0.1"}
    return {**clean, **quick, "PATH": f"{programs}:{os.environ['PATH']}", **settings}


def runs(folder: Path, settings: Mapping[str, str]) -> None:
    """Run the lines in one shell, and compare."""
    lines = [line for line in SCRIPT.splitlines() if line]
    assert sum("perdure " in line for line in lines) == 20
    (folder / "work").mkdir()
    script = "".join(f"{line}\necho '{MARK}'\n" for line in lines)
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=folder / "work",
        env=environment(folder, **settings),
        capture_output=True,
        text=True,
        check=False,
    )
    written = [part.strip() for part in done.stdout.split(f"{MARK}\n")][:-1]
    expected = [line.partition("# → ")[2] for line in lines]
    assert list(zip(lines, written, strict=True)) == list(zip(lines, expected, strict=True)), done.stderr
    assert "Traceback" not in done.stderr


def with_vectors(folder: Path, store: str) -> dict[str, str]:
    beside = f"sqlite:///{folder / 'vectors.db'}"
    return {"PERDURE_STORE": store, "PERDURE_VECTORS": beside, "PERDURE_BLOBS": beside}


def test_sqlite(tmp_path: Path) -> None:
    runs(tmp_path, {})


@pytest.mark.server
@pytest.mark.xdist_group("postgres")
async def test_postgresql(postgres_url: str, tmp_path: Path) -> None:
    async with fresh_database(postgres_url) as url:
        runs(tmp_path, {"PERDURE_STORE": url})


@pytest.mark.server
@pytest.mark.xdist_group("redis")
def test_valkey(tmp_path: Path) -> None:
    with redis_url("valkey") as url:
        runs(tmp_path, with_vectors(tmp_path, fresh(url)))


@pytest.mark.server
@pytest.mark.xdist_group("mongodb")
def test_mongodb(tmp_path: Path) -> None:
    with mongodb_url() as url:
        runs(tmp_path, with_vectors(tmp_path, url))


@pytest.mark.server
@pytest.mark.xdist_group("cosmos")
def test_cosmos(tmp_path: Path) -> None:
    with emulator_url() as url:
        runs(tmp_path, with_vectors(tmp_path, url))


@contextmanager
def served(folder: Path, **settings: str) -> Iterator[str]:
    """A server on a store of its own, elsewhere."""
    place = folder / "server"
    place.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-m", "perdure", "serve", "--port", "0", "--json"],
        cwd=place,
        env=environment(folder, **settings),
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())["url"]
    finally:
        process.terminate()
        process.communicate(timeout=60)


@pytest.mark.server
def test_a_server(tmp_path: Path) -> None:
    with served(tmp_path) as url:
        runs(tmp_path, {"PERDURE_SERVER": url})
        assert not list((tmp_path / "work").glob("*.db")), "nothing is kept here"


@pytest.mark.server
def test_a_server_with_keys(tmp_path: Path) -> None:
    (tmp_path / "server").mkdir()
    made = subprocess.run(
        [sys.executable, "-m", "perdure", "keys", "create", "ci", "--tenant", "acme"],
        cwd=tmp_path / "server",
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        check=True,
    )
    (tmp_path / "server").rename(tmp_path / "kept")
    store = f"sqlite:///{tmp_path / 'kept/perdure.db'}"
    with served(tmp_path, PERDURE_STORE=store) as url:
        runs(tmp_path, {"PERDURE_SERVER": url, "PERDURE_KEY": made.stdout.strip()})
        refused = subprocess.run(
            [sys.executable, "-m", "perdure", "jobs", "list"],
            env=environment(tmp_path, PERDURE_SERVER=url),
            capture_output=True,
            text=True,
            check=False,
        )
        assert (refused.returncode, refused.stdout) == (1, "")
        assert "perdure keys create" in refused.stderr
