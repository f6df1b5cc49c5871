"""Chunks that failed, on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.unit.app.test_ledger import HERE, TEXTS

from .conftest import Perdure


def test_the_command_line_lists_them(
    tmp_path: Path, perdure: Perdure, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PERDURE_EMBEDDER", HERE)
    monkeypatch.chdir(tmp_path)
    Path("d.md").write_text("\n\n".join(TEXTS))
    perdure("ingest", "d.md", "--json")
    job_id = json.loads(perdure("jobs", "list", "--json").out)["id"]
    lines = perdure("jobs", "chunks", job_id, "--state", "failed", "--json").out.splitlines()
    assert [json.loads(line)["index"] for line in lines] == [1, 3]
    told = perdure("jobs", "chunks", job_id, "--limit", "2")
    assert "TextRejected: not this one" in told.out
    assert "--after 1" in told.err
