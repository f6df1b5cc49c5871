"""The call about sources that start jobs by themselves."""

from __future__ import annotations

from fastapi import APIRouter, Response

from perdure.feeding import feeds_of
from perdure.rest.context import AppOf, Guarded, TenantOf, reply
from perdure.rest.openapi import answers
from perdure.wire import Feed, FeedList

router = APIRouter(prefix="/v1/feeds", tags=["feeds"], route_class=Guarded)


@router.get("", responses=answers(FeedList))
async def find(app: AppOf, tenant: TenantOf) -> Response:
    """List the tenant's feeds: who reads each, how much came, how far behind it is."""
    feeds = feeds_of(app)
    now = feeds.now().timestamp()
    return reply(FeedList(items=[Feed.of(one, now) for one in await feeds.all() if one.tenant == tenant]))
