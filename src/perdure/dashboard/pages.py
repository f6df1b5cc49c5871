"""The overview, the workers, the tenants, and the door."""

from __future__ import annotations

from collections import defaultdict
from typing import Final

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse

from perdure.dashboard import charts
from perdure.dashboard.door import KEY, Page, View, ViewOf, app_of
from perdure.domain.access import Caller, Scope
from perdure.domain.errors import Forbidden, Unauthenticated
from perdure.domain.job import Job
from perdure.domain.query import JobFilter
from perdure.domain.state import JobState
from perdure.feeding import feeds_of
from perdure.telemetry.recent import reasons
from perdure.wire import Feed

router = APIRouter(route_class=Page)
door = APIRouter()

FAILED: Final = (JobState.FAILED, JobState.PARTIAL)
TOLD: Final = 200
"""Failed jobs whose reasons are grouped."""


@router.get("/")
async def overview(view: ViewOf) -> Response:
    """How everything stands."""
    jobs = view.app.jobs
    minutes = await view.app.recent.hour(view.tenant)
    oldest = await jobs.oldest_due(view.tenant)
    return view.show(
        "overview.html",
        stats=await jobs.stats(view.tenant),
        minutes=minutes,
        throughput=charts.throughput(minutes),
        latency=charts.latency(minutes),
        waits=None if oldest is None else max(0.0, (jobs.clock.now() - oldest).total_seconds()),
        reasons=reasons(await jobs.store.find(JobFilter(tenant=view.tenant, states=FAILED), TOLD)),
    )


@router.get("/workers")
async def workers(view: ViewOf) -> Response:
    """Who runs what, and until when it is theirs; and who reads which feed."""
    query = JobFilter(tenant=view.tenant, states=(JobState.RUNNING,))
    held: defaultdict[str, list[Job]] = defaultdict(list)
    for job in await view.app.jobs.store.find(query, 500):
        held[job.worker or "?"].append(job)
    feeds = feeds_of(view.app)
    now = feeds.now().timestamp()
    theirs = [Feed.of(one, now) for one in await feeds.all() if one.tenant == view.tenant]
    return view.show("workers.html", held=sorted(held.items()), feeds=theirs)


@router.get("/tenants")
async def tenants(view: ViewOf) -> Response:
    """Whose jobs there are: of a key that is one tenant's, its own alone."""
    jobs, after = view.app.jobs, view.asked("after")
    if await _sees_all(view):
        found = await jobs.tenants(50, after)
    else:
        found = {view.tenant: await jobs.oldest_due(view.tenant)}
    rows = [(name, due, (await jobs.stats(name)).by_state) for name, due in found.items()]
    return view.show("tenants.html", rows=rows, more=max(found) if len(found) == 50 else None)


async def _sees_all(view: View) -> bool:
    """Whether the caller's key opens every tenant."""
    try:
        await view.app.gate.admit(view.request.cookies.get(KEY), Scope.READ, tenant=f"{view.tenant[:100]}-")
    except Forbidden:
        return False
    return True


@door.get("/login")
async def ask(request: Request) -> Response:
    """Ask for a key."""
    view = View(request, Caller(tenant="-", scope=Scope.READ))
    return view.show("login.html", said="", next="/")


@door.post("/login")
async def login(request: Request) -> Response:
    """Let in whoever has a key, and remember it in a cookie that no script can read."""
    view = View(request, Caller(tenant="-", scope=Scope.READ), await request.form())
    try:
        view.check_form()
        await app_of(request).gate.admit(view.asked("key"), Scope.READ)
    except (Unauthenticated, Forbidden) as error:
        return view.show("login.html", 401, said=str(error), next=view.asked("next"))
    path = view.asked("next")
    answer = view.go(path if path.startswith("/") and not path.startswith(("//", "/\\")) else "/")
    view.keep(answer, KEY, view.asked("key"))
    return answer


@door.post("/logout")
async def logout(request: Request) -> Response:
    """Forget the key."""
    view = View(request, Caller(tenant="-", scope=Scope.READ), await request.form())
    view.check_form()
    answer = RedirectResponse(view.link("/login"), 303)
    answer.delete_cookie(KEY)
    return answer


router.include_router(door)
