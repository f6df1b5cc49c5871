"""The laws are worth what they catch: mistakes put into `transition.py` must break them."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from perdure.domain import transition
from tests.unit.domain.laws import LAWS
from tests.unit.domain.samples import EXAMPLES

SOURCE = Path(transition.__file__).read_text(encoding="utf-8")

MUTATIONS = {
    "no fence on a worker's transition": (
        "after=after, epoch=job.epoch, version=None, entry=entry)",
        "after=after, epoch=None, version=None, entry=entry)",
    ),
    "no fence on a progress report": (
        "after=after, epoch=job.epoch, version=None, entry=None)",
        "after=after, epoch=None, version=None, entry=None)",
    ),
    "no guard on everybody else's": (
        "epoch=None, version=job.version, entry=entry)",
        "epoch=None, version=None, entry=entry)",
    ),
    "a rescue fenced by the epoch that it ends": (
        "return _guarded(job, after, Event.RESCUED, stamp, detail)",
        "return _fenced(job, after, Event.RESCUED, stamp, detail)",
    ),
    "a claim without a new epoch": ("epoch=job.epoch + 1,", "epoch=job.epoch,"),
    "a claim without a new version": ("        version=job.version + 1,\n        due_at", "        due_at"),
    "a version that does not grow": (
        "after = replace(after, version=job.version + 1)",
        "after = replace(after, version=job.version)",
    ),
    "a state skipped: a question runs on": (
        "state=_target(job, Event.ASKED),",
        "state=JobState.PENDING,",
    ),
    "a state skipped: an end that is none": (
        "        state=_target(job, event),\n        due_at=None",
        "        state=job.state,\n        due_at=None",
    ),
    "every move is legal": (
        "        return moves[job.state]",
        "        return moves.get(job.state, job.state)",
    ),
    "a report from a job that does not run": ("if job.state is not JobState.RUNNING:", "if False:"),
    "a rescue that is not counted": ("rescues = job.rescues + 1", "rescues = job.rescues"),
    "a rescue that counts as an attempt": (
        "Event.RESCUED, stamp, rescues=rescues)",
        "Event.RESCUED, stamp, attempt=rescues)",
    ),
    "one rescue too few": ("if rescues > job.max_rescues:", "if rescues >= job.max_rescues:"),
    "one attempt too many": ("attempt >= job.max_attempts", "attempt > job.max_attempts"),
    "fatal is tried again": ("if failure.fatal or attempt", "if attempt"),
    "a retry that does not wait": ("due_at=stamp.at + delay", "due_at=stamp.at"),
    "an end that never expires": ("due_at=None if job.ttl is None else stamp.at + job.ttl", "due_at=None"),
    "an end without its time": ("+ job.ttl,\n        completed_at=stamp.at,\n", "+ job.ttl,\n"),
    "a requeue with spent attempts": ("        attempt=0,\n", ""),
    "a requeue that keeps the open question": ("if question.answered_at is not None)", ")"),
    "a requeued job that is completed": ("        completed_at=None,\n        result", "        result"),
    "a revived job that is completed": ("        completed_at=None,\n        updated", "        updated"),
    "any answer will do": ("if question.choices and answer not in question.choices:", "if False:"),
    "an answer that forgets the earlier ones": (
        "questions=(*job.questions[:-1], question))",
        "questions=(question,))",
    ),
    "a report that forgets the checkpoint": (
        "job.checkpoint if checkpoint is None else checkpoint",
        "checkpoint",
    ),
    "a job revived by another worker": ("if job.worker != worker or job.failure", "if job.failure"),
    "a job revived that failed otherwise": (" or job.failure.type != WORKER_DIED", ""),
    "a revived job without a lease": (
        "        due_at=stamp.at + lease,\n        completed",
        "        completed",
    ),
    "a run abandoned by anybody": (
        'return _fenced(job, after, Event.CANCELLED, stamp, {"reason": reason})',
        'return _guarded(job, after, Event.CANCELLED, stamp, {"reason": reason})',
    ),
    "an entry with the state before": (
        "        state=after.state,\n        actor",
        "        state=job.state,\n        actor",
    ),
    "an entry under another id": ("id=stamp.entry_id,", "id=job.id,"),
}


def mutant(old: str, new: str) -> ModuleType:
    assert SOURCE.count(old) == 1, f"the mutation no longer fits transition.py: {old!r}"
    module = ModuleType("mutated_transition")
    exec(compile(SOURCE.replace(old, new), "mutated_transition.py", "exec"), module.__dict__)
    return module


def broken_law(domain: ModuleType) -> str | None:
    for law in LAWS:
        try:
            for job in EXAMPLES:
                law(domain, job)
        except (Exception, pytest.fail.Exception):  # noqa: BLE001  # a mutant may fail in any way
            return law.__name__
    return None


def test_the_source_as_it_is_breaks_no_law() -> None:
    same = "from __future__ import annotations"
    assert broken_law(mutant(same, same)) is None


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_a_mutation_breaks_a_law(mutation: str) -> None:
    assert broken_law(mutant(*MUTATIONS[mutation])) is not None
