"""Documents of all formats as jobs, and what a poisonous one does to the worker and the others: nothing."""

from __future__ import annotations

import asyncio
import re
import textwrap
from pathlib import Path
from typing import Any

import pytest

import perdure
from perdure import parsers
from perdure.domain.state import JobState
from perdure.parsers import Parsers
from perdure.parsers.sandbox import Limits, Sandboxed
from perdure.parsers.text import TextParser
from tests.unit.parsers import made, poison

QUICK: dict[str, Any] = {"embedder": "hashing", "poll_seconds": 0.02, "lease_seconds": 30.0}


async def test_a_folder_of_all_formats_is_found_with_its_places(tmp_path: Path) -> None:
    samples = made.samples()
    for name, data in samples.values():
        (tmp_path / name).write_bytes(data)
    async with perdure.open("memory:", **QUICK) as app:
        jobs = [await app.ingest(tmp_path / name, document_id=name) for name, _ in samples.values()]
        ended = [await app.wait(job.id, timeout=60) for job in jobs]
        assert {job.document_id: job.state for job in ended} == dict.fromkeys(
            (name for name, _ in samples.values()), JobState.COMPLETED
        )
        (hit, *_) = await app.search("the with statement", where={"page": {"gte": 1}}, limit=3)
        assert hit.document_id in {"a.pdf", "a.eml"}
        (hit, *_) = await app.search("the with statement", where={"slide": {"gte": 1}}, limit=3)
        assert hit.chunk_metadata["heading"] == ["with"]


async def test_documents_that_cannot_be_read_fail_at_once_with_the_reason(tmp_path: Path) -> None:
    bad = {
        "cut.pdf": made.pdf(made.TOPICS)[:5000],
        "locked.pdf": made.pdf({"a": "b"}, password="x"),
        "lie.docx": made.pdf({"a": "b"}),
        "cut.docx": made.word(made.TOPICS)[:5000],
        "empty.pptx": made.slides({}),
    }
    reasons = {
        "cut.pdf": "cut.pdf: it is damaged",
        "locked.pdf": "locked.pdf: it is encrypted",
        "lie.docx": "lie.docx: it should be .docx, but the content is a PDF; name it .pdf",
        "cut.docx": "cut.docx: its ZIP archive is damaged or cut off",
        "empty.pptx": "empty.pptx: there is no text in it",
    }
    for name, data in bad.items():
        (tmp_path / name).write_bytes(data)
    async with perdure.open("memory:", **QUICK) as app:
        for name in bad:
            job = await app.wait((await app.ingest(tmp_path / name)).id, timeout=60)
            assert (job.state, job.attempt) == (JobState.FAILED, 1)
            assert job.failure is not None
            assert job.failure.message.startswith(reasons[name])


@pytest.mark.slow
async def test_poison_takes_no_worker_down_and_no_other_document_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poisons = [poison.Crashes(), poison.Swells(), poison.Hangs(), poison.StopsShort(), poison.Raises()]
    limits = Limits(memory=300_000_000, silence=3.0)
    for place, each in enumerate(poisons):
        monkeypatch.setattr(each, "suffixes", frozenset({f".p{place}"}))
    registry = Parsers([Sandboxed(each, limits) for each in poisons], TextParser())
    monkeypatch.setattr(parsers, "default_parsers", lambda *_: registry)
    bad = [tmp_path / f"{number}.p{place}" for place in range(len(poisons)) for number in range(3)]
    good = [tmp_path / f"{number}.txt" for number in range(30)]
    for path in (*bad, *good):
        path.write_text(f"words of {path.name}")
    async with perdure.open("memory:", **QUICK) as app:
        jobs = {path: await app.ingest(path) for path in (*bad, *good)}
        ended = dict(
            zip(
                jobs,
                await asyncio.gather(*(app.wait(job.id, timeout=60) for job in jobs.values())),
                strict=True,
            )
        )
    assert {ended[path].state for path in good} == {JobState.COMPLETED}
    assert {(ended[path].state, ended[path].attempt, ended[path].rescues) for path in bad} == {
        (JobState.FAILED, 1, 0)
    }


async def test_the_python_of_the_how_to_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = Path(__file__).parents[3] / "docs" / "how-to" / "ingest-documents.md"
    (code,) = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    (tmp_path / "a.pdf").write_bytes(made.pdf(made.TOPICS))
    async with perdure.open("memory:", **QUICK) as app:
        await app.wait((await app.ingest(tmp_path / "a.pdf", document_id="a.pdf")).id, timeout=60)
        scope: dict[str, Any] = {"app": app}
        exec("async def example():\n" + textwrap.indent(code, "    "), scope)
        await scope["example"]()
    assert re.match(r"a\.pdf \d+ \['\w+'\]", capsys.readouterr().out)
