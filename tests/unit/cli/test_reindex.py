"""`perdure reindex`, as the page on it says."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.app.test_reindexing import NEW, OLD, New, Old
from tests.unit.cli.conftest import Perdure


def test_there_and_back_and_the_old_one_dropped(
    perdure: Perdure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PERDURE_EMBEDDER", OLD)
    monkeypatch.setenv("PERDURE_EMBEDDERS", NEW)
    Old.gate.set()
    New.gate.set()
    Path("a.txt").write_text("thirty days of leave")
    assert perdure("ingest", "a.txt", "-n", "hr").code == 0
    for what in (["--model", NEW], ["--rollback"], ["--rollback"], ["--drop-old"]):
        assert perdure("reindex", "-n", "hr", *what).code == 0
    failed = perdure("reindex", "-n", "hr", "--rollback")
    assert failed.code == 1
    assert "no generation before this one is kept" in failed.err
    assert perdure("reindex", "-n", "hr", "--model", OLD, "--no-wait").code == 0
    assert perdure("reindex", "-n", "hr").code == 2
    assert "a.txt" in perdure("search", "leave", "-n", "hr").out
