"""What a job is: immutable records, validated once when they come in."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Final

import msgspec

from perdure.domain import validation as check
from perdure.domain.errors import InvalidInput
from perdure.domain.ids import parse_uuid
from perdure.domain.record import Json, Record
from perdure.domain.state import TERMINAL, Event, JobState

DEFAULT_TENANT: Final = "default"
DEFAULT_TTL: Final = timedelta(hours=24)
MAX_PAYLOAD: Final = 1_000_000
"""Bytes of a payload as JSON. Larger content belongs into a blob, the payload names it."""
MAX_TOGETHER: Final = 100_000_000
"""Bytes of the payloads that are added in one call."""


class Progress(Record):
    """How far a run has come.

    Attributes:
        fraction: 0.0 to 1.0, or None where the whole is not known.
        message: one line for people.
        counts: counters by name; `vectorize` keeps `chunks_total`, `chunks_embedded`, `chunks_stored`,
            `chunks_reused` and `failed_count` here.
    """

    fraction: float | None = None
    message: str = ""
    counts: dict[str, int] = msgspec.field(default_factory=dict)


class Failure(Record):
    """Why a run ended badly.

    Attributes:
        type: the exception's class name, or `WorkerDied`.
        message: what to read first.
        fatal: True where trying again cannot help.
        detail: the end of the traceback, at most 4,000 characters.
    """

    type: str
    message: str
    fatal: bool = False
    detail: str = ""


class Question(Record):
    """A question that a handler put to a human, with its answer once there is one.

    Attributes:
        key: names the question inside its job; asking it again gives the stored answer.
        prompt: what the human reads.
        choices: the answers allowed; empty: any JSON value.
        schema: the JSON Schema that an answer must fit; None: any does.
        deadline: when the default stands; None: the job waits for ever.
        default: the answer if nobody gives one in time.
        answer: the accepted answer; meaningful only once `answered_at` is set.
        answered_by: who gave it; `deadline` where the default took its place.
    """

    key: str
    prompt: str
    asked_at: datetime
    choices: tuple[str, ...] = ()
    schema: dict[str, Json] | None = None
    deadline: datetime | None = None
    default: Json = None
    answer: Json = None
    answered_by: str | None = None
    answered_at: datetime | None = None


class Lease(Record):
    """The right of `worker` to run a job until `expires_at` (the store's clock), under `epoch`."""

    worker: str
    epoch: int
    expires_at: datetime


class NewJob(Record):
    """A job as its author describes it; `JobService.add` makes a `Job` of it.

    Attributes:
        kind: names the handler.
        id: a UUIDv7 of the caller's own, so that adding may be repeated; None: a new one.
        payload: the handler's keyword arguments; JSON, at most `MAX_PAYLOAD` bytes.
        run_at: not before this moment (aware); None: at once.
        priority: -1000 to 1000; higher is claimed sooner.
        max_attempts: runs that the handler may end badly; None: the handler's own setting.
        max_rescues: deaths of its worker that a job survives.
        idempotency_key: the same key (per tenant) gives the same job.
        unique_for: how long the key holds after the job was added; then it makes a new job, and the old one has it no
            more. At most `ttl`. None: as long as the job's record lives.
        user_id, document_id: who and what it is about; lists filter by them.
        labels: free pairs, kept with the job.
        ttl: how long the job can be looked up after its end; None: for ever.

    Raises:
        InvalidInput: on construction, naming the field.
    """

    kind: str
    id: str | None = None
    payload: dict[str, Json] = msgspec.field(default_factory=dict)
    tenant: str = DEFAULT_TENANT
    run_at: datetime | None = None
    priority: int = 0
    max_attempts: int | None = None
    max_rescues: int = 3
    idempotency_key: str | None = None
    user_id: str | None = None
    document_id: str | None = None
    labels: dict[str, str] = msgspec.field(default_factory=dict)
    created_by: str | None = None
    ttl: timedelta | None = DEFAULT_TTL
    unique_for: timedelta | None = None

    def __post_init__(self) -> None:
        check.name(self.kind, "kind")
        if self.id is not None and self.id != parse_uuid(self.id, "job id"):
            raise InvalidInput(
                f"job id {self.id!r} is not in canonical form; write it in lower case with dashes"
            )
        check.name(self.tenant, "tenant")
        if not isinstance(self.payload, Mapping):
            raise InvalidInput(f"payload must be a JSON object, got a {type(self.payload).__name__}")
        check.json_value(self.payload, "payload")
        for what in ("idempotency_key", "user_id", "document_id", "created_by"):
            value = getattr(self, what)
            if value is not None:
                check.text(value, what)
        check.labels(self.labels)
        if self.run_at is not None:
            check.aware(self.run_at, "run_at")
        check.priority(self.priority)
        if self.max_attempts is not None:
            check.at_least(self.max_attempts, 1, "max_attempts")
        check.at_least(self.max_rescues, 0, "max_rescues")
        check.ttl(self.ttl)
        if self.unique_for is not None:
            self._check_unique(self.unique_for)

    def _check_unique(self, span: timedelta) -> None:
        if self.idempotency_key is None:
            raise InvalidInput(
                "unique_for says how long an idempotency_key holds, and there is none; give one"
            )
        if span <= timedelta(0) or (self.ttl is not None and span > self.ttl):
            raise InvalidInput(
                f"unique_for is {span}; expected more than zero, and no more than ttl ({self.ttl}): a key lives no longer "
                "than the record of its job"
            )


class Job(Record):
    """One durable unit of work, as it was at one moment.

    Attributes:
        id: UUIDv7, canonical lower case.
        state: see `JobState`.
        due_at: when the job next needs somebody, on the store's clock: a *pending* job may be claimed
            from then on; a *running* one's lease ends then; a *waiting* one's question gets its default
            then; a *terminal* one expires then. None: never by itself.
        epoch: the claim number, +1 at every claim, never reset. A worker's writes carry it.
        version: +1 at every write. Everybody else's writes carry it.
        attempt: runs that the handler ended (well or badly).
        rescues: runs that died under it.
        worker: who holds it, or held it last.
        payload, labels, priority, …: as in `NewJob`.
        checkpoint: whatever the handler saved to go on from.
        questions: every question asked so far; at most the last one is open.
        result: what the handler returned.
        failure: why the last run ended badly; None after a good one.
        started_at: when the current or last run began. completed_at: when it became terminal.
    """

    id: str
    tenant: str
    kind: str
    state: JobState
    due_at: datetime | None
    created_at: datetime
    updated_at: datetime
    priority: int = 0
    epoch: int = 0
    version: int = 0
    attempt: int = 0
    max_attempts: int = 1
    rescues: int = 0
    max_rescues: int = 3
    worker: str | None = None
    idempotency_key: str | None = None
    user_id: str | None = None
    document_id: str | None = None
    created_by: str | None = None
    ttl: timedelta | None = DEFAULT_TTL
    started_at: datetime | None = None
    completed_at: datetime | None = None
    payload: dict[str, Json] = msgspec.field(default_factory=dict)
    labels: dict[str, str] = msgspec.field(default_factory=dict)
    progress: Progress | None = None
    checkpoint: Json = None
    questions: tuple[Question, ...] = ()
    result: Json = None
    failure: Failure | None = None
    unique_for: timedelta | None = None

    def lapsed(self, now: datetime) -> bool:
        """Whether the job's idempotency key makes a new job from now on; see `unkeyed`."""
        return self.unique_for is not None and self.created_at + self.unique_for <= now

    def unkeyed(self) -> Job:
        """The job when another has taken over its idempotency key."""
        return msgspec.structs.replace(self, idempotency_key=None, version=self.version + 1)

    @property
    def finished(self) -> bool:
        """Whether the job is in a terminal state."""
        return self.state in TERMINAL

    @property
    def lease(self) -> Lease | None:
        """Who may run the job until when; None unless it is running."""
        if self.state is not JobState.RUNNING or self.worker is None or self.due_at is None:
            return None
        return Lease(worker=self.worker, epoch=self.epoch, expires_at=self.due_at)

    @property
    def question(self) -> Question | None:
        """The question that the job waits for; None unless it is waiting."""
        return self.questions[-1] if self.state is JobState.WAITING and self.questions else None

    @property
    def expires_at(self) -> datetime | None:
        """When the record of a finished job goes; None while it is unfinished, or kept for ever."""
        return self.due_at if self.finished else None


class Entry(Record):
    """One line of a job's history: what happened, when, by whom.

    Attributes:
        id: UUIDv7, unique. The store keeps it with the write that it describes, so that repeating a
            write whose answer was lost is recognised.
        event: what happened.
        at: when, on the store's clock.
        state: the state after.
        actor: the worker's name, the user, or `maintenance`.
        epoch, attempt, rescues: the job's counts after.
        started_at: for the end of a run, when it began.
        detail: reason, error, question or answer; small.
    """

    id: str
    event: Event
    at: datetime
    state: JobState
    actor: str
    epoch: int
    attempt: int
    rescues: int
    started_at: datetime | None = None
    detail: dict[str, Json] = msgspec.field(default_factory=dict)


class Departure(Record):
    """What moving to the store `to` takes off a job: the detail of that entry, from which the job goes on there."""

    to: str
    state: JobState
    due_at: datetime | None
    failure: Failure | None
