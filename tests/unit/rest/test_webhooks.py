"""Webhooks over REST."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from perdure.app import App
from perdure.cli.remote import Remote
from perdure.core.webhooks import KIND
from perdure.domain.errors import NotFound
from perdure.domain.job import NewJob
from perdure.domain.state import JobState


async def test_a_webhook_is_made_listed_and_taken_away(client: httpx.AsyncClient) -> None:
    made = await client.post("/v1/webhooks", json={"url": "https://93.184.216.34/hook", "states": ["failed"]})
    assert made.status_code == 201
    webhook = made.json()
    assert webhook.pop("secret").startswith("whsec_")
    listed = (await client.get("/v1/webhooks")).json()
    assert listed == {"items": [webhook]}
    assert (webhook["states"], webhook["kinds"], webhook["active"]) == (["failed"], [], True)
    path = f"/v1/webhooks/{webhook['id']}"
    assert (await client.get(f"{path}/deliveries")).json() == {"items": []}
    assert (await client.delete(path, headers={"X-Tenant": "acme"})).status_code == 404
    assert (await client.get("/v1/webhooks", headers={"X-Tenant": "acme"})).json() == {"items": []}
    assert (await client.get(f"{path}/deliveries", headers={"X-Tenant": "acme"})).status_code == 404
    assert (await client.delete(path)).status_code == 204
    assert (await client.delete(path)).status_code == 404


async def test_the_command_line_does_the_same_on_a_server(client: httpx.AsyncClient, app: App) -> None:
    server = Remote("http://test", None, None, "ann")
    await server._server.client.aclose()
    server._server.client = client
    webhooks, address = server.webhooks, "https://93.184.216.34/hook"
    made = await webhooks.subscribe(address, tenant="default", states=["failed"], kinds=["a"])
    assert made.secret.startswith("whsec_")
    [kept] = await webhooks.subscriptions("default")
    assert (kept.id, kept.url, kept.kinds) == (made.id, address, ("a",))
    message = {"type": "job.failed", "data": {"job_id": made.id, "entry": {"id": made.id}}}
    payload: dict[str, Any] = {"subscription": made.id, "message": message}
    sent = await app.jobs.add(NewJob(kind=KIND, tenant="default", payload=payload, user_id=made.id))
    [delivery] = await webhooks.deliveries(made.id, tenant="default", limit=5)
    assert (delivery.id, delivery.type, delivery.state) == (sent.id, "job.failed", JobState.PENDING)
    assert await webhooks.replay(sent.id, tenant="default", actor="ann") == delivery
    await webhooks.unsubscribe(made.id, tenant="default")
    assert await webhooks.subscriptions("default") == []
    with pytest.raises(NotFound, match="no webhook"):
        await webhooks.unsubscribe(made.id, tenant="default")


async def test_what_does_not_fit_is_a_bad_request(client: httpx.AsyncClient) -> None:
    for body in (
        {"url": "http://169.254.169.254/latest/meta-data"},
        {"url": "nonsense"},
        {"url": "https://example.com", "states": ["done"]},
        {"url": "https://example.com", "states": []},
        {"url": "https://example.com", "kinds": ["no kind"]},
        {},
    ):
        answer = await client.post("/v1/webhooks", json=body)
        assert answer.status_code == 400, answer.text
        assert answer.json()["type"].endswith("/invalid-request")
    assert (await client.post("/v1/webhooks/deliveries/x/replay")).status_code == 400
    unknown = "0198c0de-7a3e-7abc-8def-0123456789ab"
    assert (await client.post(f"/v1/webhooks/deliveries/{unknown}/replay")).status_code == 404
