"""Calls about who else is told what happens to jobs."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Response
from pydantic import Field

from perdure.domain.state import TERMINAL, JobState
from perdure.rest.bodies import Body, Name
from perdure.rest.context import ActorOf, AppOf, Guarded, JsonOnly, TenantOf, reply
from perdure.rest.openapi import answers
from perdure.wire import Delivery, DeliveryList, NewWebhook, WebhookList

router = APIRouter(prefix="/v1/webhooks", tags=["webhooks"], route_class=Guarded, dependencies=[JsonOnly])


class WebhookRequest(Body):
    """Who is to be told what."""

    url: str = Field(
        description="Where messages are sent; a public address.",
        examples=["https://example.com/hook"],
        json_schema_extra={"pattern": "^https?://[a-z]+\\.[a-z]+(/|$)"},
    )
    states: list[JobState] = Field(
        sorted(TERMINAL), min_length=1, description="A job that comes into one of these is told of."
    )
    kinds: list[Name] = Field([], description="Only jobs of these kinds; empty: of all.")


@router.post("", status_code=201, responses=answers(NewWebhook, 415, status=201))
async def add(body: WebhookRequest, app: AppOf, tenant: TenantOf) -> Response:
    """Tell an address what happens to jobs from now on. The secret that signs the messages is told here and nowhere else."""
    made = await app.webhooks.subscribe(body.url, tenant=tenant, states=body.states, kinds=body.kinds)
    return reply(NewWebhook.of(made), 201)


@router.get("", responses=answers(WebhookList))
async def find(app: AppOf, tenant: TenantOf) -> Response:
    """List the tenant's webhooks, oldest first."""
    return reply(WebhookList.of(await app.webhooks.subscriptions(tenant)))


@router.delete("/{webhook_id}", status_code=204, responses=answers(None, 404))
async def remove(webhook_id: str, app: AppOf, tenant: TenantOf) -> None:
    """Take a webhook away; what waits to be delivered is dropped."""
    await app.webhooks.unsubscribe(webhook_id, tenant=tenant)


@router.get("/{webhook_id}/deliveries", responses=answers(DeliveryList, 404))
async def deliveries(
    webhook_id: str, app: AppOf, tenant: TenantOf, limit: Annotated[int, Query(ge=1, le=1000)] = 50
) -> Response:
    """List what was sent last, newest first, with what the receiver answered."""
    return reply(DeliveryList.of(await app.webhooks.deliveries(webhook_id, tenant=tenant, limit=limit)))


@router.post(
    "/deliveries/{delivery_id}/replay", status_code=202, responses=answers(Delivery, 404, status=202)
)
async def replay(delivery_id: str, app: AppOf, tenant: TenantOf, actor: ActorOf) -> Response:
    """Send a delivery once more, under the same `webhook-id`."""
    return reply(Delivery.of(await app.webhooks.replay(delivery_id, tenant=tenant, actor=actor)), 202)
