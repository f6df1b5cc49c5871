"""Jobs: the list, one of them, those that failed, and what can be done to them."""

from __future__ import annotations

from typing import Final

import msgspec
from fastapi import APIRouter, Response

from perdure import wire
from perdure.dashboard.door import Page, View, ViewOf
from perdure.domain.access import Scope
from perdure.domain.errors import IllegalTransition, InvalidInput, NotFound
from perdure.domain.job import Job
from perdure.domain.query import JobFilter
from perdure.domain.record import Json
from perdure.domain.state import MOVES, Event, JobState

router = APIRouter(route_class=Page)

ROWS: Final = 50
DEAD: Final = (JobState.FAILED, JobState.PARTIAL)


@router.get("/jobs")
async def listed(view: ViewOf) -> Response:
    """Jobs, newest first, by filters."""
    return await _page(view, "jobs.html", ())


@router.get("/dead")
async def dead(view: ViewOf) -> Response:
    """Jobs that failed, to be sent round again."""
    return await _page(view, "dead.html", DEAD)


async def _page(view: View, template: str, states: tuple[JobState, ...]) -> Response:
    query = _query(view, states)
    page = await view.app.jobs.page(query, limit=ROWS, after=view.asked("cursor") or None)
    stats = await view.app.jobs.stats(view.tenant)
    return view.show(template, page=page, states=list(JobState), kinds=sorted(stats.counts), stats=stats)


def _query(view: View, states: tuple[JobState, ...]) -> JobFilter:
    state, kind = view.asked("status"), view.asked("kind")
    if state and state not in list(JobState):
        raise InvalidInput(f"{state!r} is no status; expected one of {', '.join(JobState)}")
    return JobFilter(
        tenant=view.tenant,
        states=(JobState(state),) if state else states,
        kinds=(kind,) if kind else (),
        user_id=view.asked("user_id") or None,
        document_id=view.asked("document_id") or None,
    )


@router.post("/dead/retry")
async def retry_many(view: ViewOf) -> Response:
    """Send those that were chosen round again, or all that match."""
    chosen = [str(value) for value in view.form.getlist("job")]
    done = 0
    if view.asked("all"):
        done = await view.app.jobs.requeue_all(_query(view, DEAD), actor=view.caller.actor)
    for job_id in chosen if not view.asked("all") else ():
        try:
            await view.app.jobs.requeue(job_id, tenant=view.tenant, actor=view.caller.actor)
            done += 1
        except (IllegalTransition, NotFound):
            pass  # somebody else was quicker
    return view.go("/dead", kind=view.asked("kind"), status=view.asked("status"), done=done)


@router.get("/jobs/{job_id}")
async def one(job_id: str, view: ViewOf) -> Response:
    """A job with its story."""
    return await _one(view, job_id)


async def _one(view: View, job_id: str, said: str = "", status: int = 200) -> Response:
    job = await view.app.jobs.get(job_id, tenant=view.tenant)
    return view.show(
        "job.html",
        status,
        job=job,
        history=await view.app.jobs.history(job_id, tenant=view.tenant),
        failed=wire.Status.of(job).failed_chunks,
        counts={name: value for name, value in wire.counts(job).items() if isinstance(value, int)},
        can={event.value for event in (Event.CANCELLED, Event.REQUEUED) if job.state in MOVES[event]},
        trace=view.caller.scope is Scope.ADMIN,
        said=said,
    )


@router.post("/jobs/{job_id}/cancel")
async def cancel(job_id: str, view: ViewOf) -> Response:
    """Call a job off."""
    await view.app.jobs.cancel(job_id, tenant=view.tenant, actor=view.caller.actor)
    return view.go(f"/jobs/{job_id}")


@router.post("/jobs/{job_id}/retry")
async def retry(job_id: str, view: ViewOf) -> Response:
    """Send a job round again."""
    await view.app.jobs.requeue(job_id, tenant=view.tenant, actor=view.caller.actor)
    return view.go(f"/jobs/{job_id}")


@router.post("/jobs/{job_id}/answer")
async def answer(job_id: str, view: ViewOf) -> Response:
    """Answer a job's question."""
    job = await view.app.jobs.get(job_id, tenant=view.tenant)
    try:
        said, key = _answer(job, view), view.asked("key") or None
        await view.app.jobs.respond(job_id, said, tenant=view.tenant, actor=view.caller.actor, key=key)
    except InvalidInput as error:
        return await _one(view, job_id, said=str(error), status=400)
    return view.go(f"/jobs/{job_id}")


def _answer(job: Job, view: View) -> Json:
    """The answer as it was meant: a choice, JSON where the question has a schema, else a text."""
    said = view.asked("answer")
    if job.question is None or job.question.schema is None:
        return said
    try:
        decoded: Json = msgspec.json.decode(said)
    except msgspec.DecodeError as error:
        raise InvalidInput(
            f'the answer is not JSON: {error}; write e.g. 3, "text" or {{"a": true}}'
        ) from None
    return decoded
