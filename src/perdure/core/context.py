"""What a handler holds while it runs: its job, and the ways to speak of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from datetime import datetime, timedelta
from typing import Protocol

from perdure.core.answers import check_question
from perdure.domain import transition
from perdure.domain import validation as check
from perdure.domain.errors import InvalidInput, LeaseLost
from perdure.domain.job import Job, Progress, Question
from perdure.domain.record import Json
from perdure.domain.transition import Transition

under_way: ContextVar[Job | None] = ContextVar("perdure_job", default=None)
"""The job whose run this code is part of, for logs."""


class Asked(BaseException):
    """The handler asked a question that has no answer yet. No `Exception`: handlers must not catch it."""

    def __init__(self, question: Question) -> None:
        super().__init__(question.prompt)
        self.question = question


class Writer(Protocol):
    """Where a context's writes go."""

    async def write(self, move: Transition) -> None:
        """Write it; return once it is durable. Raises `LeaseLost` if the job is another's by now."""
        ...

    def note(self, move: Transition) -> None:
        """Write it soon; a newer note of the same job may take its place."""
        ...


class Context:
    """Given to each run of a handler as its first argument.

    Attributes:
        job: the job as it is known here; its `payload` came as keyword arguments.
    """

    def __init__(
        self,
        job: Job,
        writer: Writer,
        now: Callable[[], datetime],
        *,
        valid_until: float,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.job = job
        self._writer = writer
        self._now = now
        self._monotonic = monotonic
        self._valid_until = valid_until
        self._lost = ""

    @property
    def epoch(self) -> int:
        """The claim number that this run writes under."""
        return self.job.epoch

    @property
    def saved(self) -> Json:
        """What the last `checkpoint` saved, in this run or one before; None if nothing."""
        return self.job.checkpoint

    @property
    def cancelled(self) -> bool:
        """Whether the run should stop: the job was cancelled, deleted, or went to another worker."""
        return bool(self._lost) or self._monotonic() > self._valid_until

    def check(self) -> None:
        """Stop here if the run should stop.

        Raises:
            LeaseLost: let it pass through.
        """
        if self.cancelled:
            reason = self._lost or "no heartbeat went through before the lease ran out"
            raise LeaseLost(f"job {self.job.id} (epoch {self.epoch}): {reason}")

    async def progress(self, fraction: float | None, message: str = "", **counts: int) -> None:
        """Tell how far the run has come. Cheap: reports are written together, and the latest counts.

        Args:
            fraction: 0.0 to 1.0; None: not known.
            counts: counters to add to those told before.

        Raises:
            LeaseLost: the run should stop.
        """
        self.check()
        told = reported(self.job, fraction, message, counts)
        move = transition.save(self.job, self._now(), progress=told)
        self.job = move.after
        self._writer.note(move)

    async def checkpoint(self, value: Json) -> None:
        """Save where to go on from. It is durable on return; `saved` gives it to the next run.

        Raises:
            LeaseLost: the run should stop.
            InvalidInput: it is no JSON.
        """
        self.check()
        check.json_value(value, "checkpoint")
        move = transition.save(self.job, self._now(), checkpoint=value)
        await self._writer.write(move)
        self.job = move.after

    async def ask(
        self,
        prompt: str,
        *,
        choices: Sequence[str] = (),
        schema: Mapping[str, Json] | None = None,
        deadline: str | timedelta | None = None,
        default: Json = None,
        key: str | None = None,
    ) -> Json:
        """Ask a human. While nobody answers the job sleeps in the store, and holds no worker.

        The handler ends here and is run again from its beginning once there is an answer; asking the same
        question again then returns it. Save what must not be done twice with `checkpoint`.

        Args:
            choices: the answers allowed; none: any JSON.
            schema: a JSON Schema that the answer must fit, instead of choices.
            deadline: how long to wait, e.g. ``"2d"``, ``"90m"``; None: for ever.
            default: the answer if none comes in time.
            key: tells questions of one job apart; by default the prompt does.

        Raises:
            InvalidInput: the schema is none, or the default is no answer that would be accepted.
        """
        self.check()
        check.text(prompt, "a question", 10_000)
        key = check.text(key or prompt, "a question's key", 10_000)
        check.json_value(list(choices), "choices")
        for question in self.job.questions:
            if question.key == key and question.answered_at is not None:
                return question.answer
        check.json_value(default, "default")
        now = self._now()
        question = Question(
            key=key,
            prompt=prompt,
            asked_at=now,
            choices=tuple(choices),
            schema=None if schema is None else dict(schema),
            deadline=None if deadline is None else now + check.duration(deadline),
            default=default,
        )
        check_question(question)
        raise Asked(question)

    # --- for the worker ---------------------------------------------------------------------

    def prolong(self, valid_until: float) -> None:
        """The lease was extended."""
        self._valid_until = valid_until

    def lose(self, reason: str) -> None:
        """The job is not ours any more."""
        self._lost = reason


class ThreadContext:
    """The same for a plain function in a thread: the calls wait instead of being awaited.

    Attributes:
        job: as in `Context`.
    """

    def __init__(self, context: Context, loop: asyncio.AbstractEventLoop) -> None:
        self._context = context
        self._loop = loop

    @property
    def job(self) -> Job:
        """The job as it is known here."""
        return self._context.job

    @property
    def saved(self) -> Json:
        """What the last `checkpoint` saved; None if nothing."""
        return self._context.saved

    @property
    def cancelled(self) -> bool:
        """Whether the run should stop; a thread cannot be stopped, so look at it now and then."""
        return self._context.cancelled

    def check(self) -> None:
        """Stop here if the run should stop; see `Context.check`."""
        self._context.check()

    def progress(self, fraction: float | None, message: str = "", **counts: int) -> None:
        """See `Context.progress`."""
        call = self._context.progress(fraction, message, **counts)
        asyncio.run_coroutine_threadsafe(call, self._loop).result()

    def checkpoint(self, value: Json) -> None:
        """See `Context.checkpoint`."""
        asyncio.run_coroutine_threadsafe(self._context.checkpoint(value), self._loop).result()

    def ask(
        self,
        prompt: str,
        *,
        choices: Sequence[str] = (),
        schema: Mapping[str, Json] | None = None,
        deadline: str | timedelta | None = None,
        default: Json = None,
        key: str | None = None,
    ) -> Json:
        """See `Context.ask`."""
        # Not on the loop: `Asked` is a BaseException, which a task would re-raise into the loop itself.
        call = self._context.ask(
            prompt, choices=choices, schema=schema, deadline=deadline, default=default, key=key
        )
        try:
            call.send(None)
        except StopIteration as done:
            answer: Json = done.value
            return answer
        raise RuntimeError("asking does not wait")  # pragma: no cover


def reported(job: Job, fraction: float | None, message: str, counts: Mapping[str, int]) -> Progress:
    """The job's progress after a report; counters told before stay.

    Raises:
        InvalidInput: the fraction is out of range, or a counter is no number.
    """
    if fraction is not None and not 0 <= fraction <= 1:
        raise InvalidInput(f"progress is {fraction}; expected 0.0 to 1.0, or None")
    check.json_value(counts, "progress counts")
    before = job.progress.counts if job.progress else {}
    return Progress(fraction=fraction, message=check.storable(message), counts={**before, **counts})
