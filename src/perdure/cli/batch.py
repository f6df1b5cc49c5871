"""What `perdure ingest` does with the files it found: add their jobs, and follow them to their ends."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from perdure.cli.files import Found, Problem
from perdure.cli.progress import Show
from perdure.cli.running import Stop
from perdure.cli.tracking import Tracker
from perdure.domain.errors import DocumentError, InvalidInput
from perdure.domain.job import Job
from perdure.domain.record import Json

if TYPE_CHECKING:
    from perdure.app import App

_BATCH: Final = 500
_LOOK_EVERY: Final = 0.2
"""Seconds between two looks at the jobs."""


@dataclass
class Batch:
    """The files of one run of the command, and what became of them.

    Attributes:
        problems: files that could not be added.
        options: keywords of `App.ingest_many`: namespace, tenant, …
        files: job id → its file, of those that were added so far.
    """

    app: App
    problems: list[Problem]
    encoding: str | None
    metadata: dict[str, Json]
    options: Mapping[str, Any]
    files: dict[str, Found] = field(default_factory=dict)
    added: list[Job] = field(default_factory=list)

    async def add(self, files: Sequence[Found], stopped: Callable[[], bool] = lambda: False) -> int:
        """Add the files' jobs, some hundred at a time, until it is done or `stopped`.

        Dying in between loses nothing: what was added stays, and the same command adds the rest.

        Returns:
            How many files are left.
        """
        for start in range(0, len(files), _BATCH):
            if stopped():
                return len(files) - start
            some = files[start : start + _BATCH]
            try:
                await self._submit(some)
            except (DocumentError, InvalidInput):
                # One of them spoils the batch, perhaps because it has just vanished: find out which.
                for file in some:
                    await self._submit_alone(file)
        return 0

    async def _submit_alone(self, file: Found) -> None:
        try:
            await self._submit([file])
        except (DocumentError, InvalidInput) as error:
            self.problems.append(Problem(file.document_id, str(error)))

    async def _submit(self, files: Sequence[Found]) -> None:
        from perdure.app import FileItem

        items = [
            FileItem(
                path=file.path, document_id=file.document_id, encoding=self.encoding, metadata=self.metadata
            )
            for file in files
        ]
        jobs = await self.app.ingest_many(items, **self.options)
        self.added += jobs
        self.files |= {job.id: file for job, file in zip(jobs, files, strict=True)}

    async def finish(self, stop: Stop, show: Show) -> Tracker:
        """Wait until all the jobs have come to their ends, or somebody asks to stop."""
        tracker = Tracker(self.added, {job_id: file.size for job_id, file in self.files.items()})
        while tracker.open and not stop.asked.is_set():
            await self.look(tracker)
            show(tracker.tally())
            if tracker.open:
                await stop.pause(_LOOK_EVERY)
        return tracker

    async def look(self, tracker: Tracker) -> None:
        """Let the tracker see what has become of the jobs."""
        tenant = self.options["tenant"]
        await tracker.look(lambda job_id: self.app.jobs.get(job_id, tenant=tenant))
