"""Feeds over REST."""

from __future__ import annotations

import httpx

from perdure.app import App
from perdure.domain.record import Json


async def test_a_tenant_sees_how_its_own_feeds_stand(client: httpx.AsyncClient, app: App) -> None:
    status: dict[str, Json] = {
        "name": "inbox",
        "tenant": "acme",
        "leader": "host:1:a",
        "until": 1.0,
        "upserts": 3,
        "note": "scanned",
    }
    await app.jobs.store.values.write("feeds", "inbox", status, expect=0)
    assert (await client.get("/v1/feeds")).json() == {"items": []}
    (feed,) = (await client.get("/v1/feeds", headers={"X-Tenant": "acme"})).json()["items"]
    # Its lease is over.
    assert (feed["name"], feed["reader"], feed["upserts"], feed["lag_seconds"]) == ("inbox", "", 3, None)
