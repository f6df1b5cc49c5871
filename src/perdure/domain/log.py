"""The log of what happened to all jobs, in the order in which it was written."""

from __future__ import annotations

from perdure.domain.job import Entry
from perdure.domain.record import Record


class Logged(Record):
    """A line of the log: what happened, and to which job."""

    tenant: str
    job_id: str
    kind: str
    entry: Entry


class JobEvent(Record):
    """Something that happened to a job, as those hear it who follow.

    Attributes:
        position: follow from here to get what comes after. Opaque.
        entry: what happened; its id tells an event that comes again.
    """

    position: str
    tenant: str
    job_id: str
    kind: str
    entry: Entry


class LogPage(Record):
    """Some lines.

    Attributes:
        next: where to go on reading: opaque, and good for any process that has the store open.
        more: whether lines that are there already were left out.
    """

    lines: tuple[Logged, ...]
    next: str
    more: bool = False
