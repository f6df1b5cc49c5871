"""`perdure doctor` names each of these planted faults, and what to do about it."""

from __future__ import annotations

import asyncio
import json
import shutil
import sqlite3
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import perdure as library
from perdure.cli.commands import doctor

from .conftest import Perdure


class Usage(NamedTuple):
    total: int = 10**12
    used: int = 10**12 - 10**8
    free: int = 10**8


class Later(datetime):
    """A machine whose clock is an hour fast."""

    @classmethod
    def now(cls, tz: Any = None) -> Any:
        return datetime.now(tz) + timedelta(hours=1)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which all is well."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PERDURE_EMBEDDER", "hashing")

    async def fill() -> None:
        async with library.open() as app:
            job = await app.ingest_text("Thirty days of leave.", document_id="leave")
            await app.wait(job.id, timeout=30)

    asyncio.run(fill())
    return tmp_path


def faults(perdure: Perdure, *args: str) -> dict[str, dict[str, str]]:
    outcome = perdure("doctor", "--json", *args)
    found = [json.loads(line) for line in outcome.out.splitlines()]
    wrong = {one["check"]: one for one in found if one["status"] != "ok"}
    assert all(one["remedy"] for one in wrong.values())
    assert outcome.code == any(one["status"] == "fault" for one in found)
    return wrong


def test_where_all_is_well_it_says_so(perdure: Perdure) -> None:
    assert faults(perdure) == {}
    outcome = perdure("doctor")
    assert outcome.code == 0
    assert "this machine's differs from the store's by 0.0 s" in outcome.out


PLANTED = [
    # variable, value, check, what it says, remedy
    ("PERDURE_CONCURRENCY", "many", "settings", "PERDURE_CONCURRENCY is 'many'", "unset it"),
    ("PERDURE_LEASE_SECOND", "5", "environment", "is no setting", "did you mean PERDURE_LEASE_SECONDS?"),
    ("PERDURE_STORE", "oracle:x", "store", "unknown store 'oracle:'", "host, port, user"),
    ("PERDURE_STORE", "sqlite:///gone.db", "store", "nothing at sqlite:///gone.db", "perdure store init"),
    ("PERDURE_STORE", "sqlite:////gone/p.db", "disk", "there is no folder /gone", "mkdir -p /gone"),
    ("PERDURE_STORE", "redis://127.0.0.1:1/0", "store", "127.0.0.1:1", "is it running"),
    ("PERDURE_STORE", "memory:", "store", "gone when its process ends", "PERDURE_STORE=sqlite:///perdure.db"),
    ("PERDURE_VECTORS", "redis://127.0.0.1/0", "vectors", "keeps jobs, not vectors", "is it running"),
    ("PERDURE_EMBEDDER", "oracle", "embedder", "unknown embedder 'oracle'", "PERDURE_EMBEDDER"),
    (
        *("PERDURE_EMBEDDER", "ollama:x@http://127.0.0.1:1", "embedder", "127.0.0.1:1"),
        "that its server runs",
    ),
    ("PERDURE_EMBEDDER", "local", "model", "was filled by hashing", "set PERDURE_EMBEDDER as it was"),
    ("PERDURE_ALLOW_REMOTE", "true", "door", "lets anybody", "perdure keys create"),
    ("PERDURE_JWT_KEYS", "keys.json", "door", "will not start", "PERDURE_JWT_ISSUER"),
]


@pytest.mark.parametrize("planted", PLANTED, ids=lambda planted: "=".join(planted[:2]))
def test_it_names_a_wrong_setting(
    perdure: Perdure, monkeypatch: pytest.MonkeyPatch, planted: tuple[str, str, str, str, str]
) -> None:
    name, value, check, said, remedy = planted
    monkeypatch.setenv(name, value)
    found = faults(perdure)[check]
    assert said in found["message"]
    assert remedy in found["remedy"]


def test_it_names_a_file_that_is_no_store(perdure: Perdure, folder: Path) -> None:
    (folder / "notes.db").write_text("no database at all" * 100)
    found = faults(perdure, "--store", "sqlite:///notes.db")["store"]
    assert "not an SQLite database" in found["message"]
    assert "restore it from a backup" in found["remedy"]


def test_it_names_a_schema_of_another_release(perdure: Perdure, folder: Path) -> None:
    with closing(sqlite3.connect(folder / "perdure.db")) as database:
        database.execute("PRAGMA user_version = 9999")
        database.execute("UPDATE perdure_schema SET version = 9999")
        database.commit()
    found = faults(perdure)["store"]
    assert "9999" in found["message"]
    assert "a later one" in found["remedy"]


def test_it_names_a_clock_that_is_off(perdure: Perdure, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "datetime", Later)
    found = faults(perdure)["clock"]
    assert found["message"] == "this machine's differs from the store's by 1 h 00 min"
    assert "NTP" in found["remedy"]


def test_it_names_a_disk_that_is_full(perdure: Perdure, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _folder: Usage())
    found = faults(perdure)["disk"]
    assert "only 0.1 GB are free" in found["message"]
    assert "make room" in found["remedy"]


def test_it_names_jobs_that_nobody_runs_and_those_that_failed(
    perdure: Perdure, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def leave() -> None:
        async with library.open(worker=False) as app:
            await app.submit("transcribe")
        async with library.open() as app:

            @app.handler("break", max_attempts=1)
            async def broken(_ctx: Any) -> None:
                raise ValueError("broken")

            await app.wait((await app.submit("break")).id, timeout=30)

    asyncio.run(leave())
    monkeypatch.setattr(doctor, "STUCK", timedelta(0))
    found = faults(perdure)
    assert found["worker"]["remedy"] == "start one: perdure worker"
    assert "perdure dead list" in found["jobs"]["remedy"]
