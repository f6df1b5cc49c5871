"""API keys: made, used, rotated, revoked, and never kept in the clear."""

from __future__ import annotations

from datetime import timedelta

import msgspec
import pytest

from perdure.core.keys import FRESH, SPACE, Keys
from perdure.domain.access import Scope
from perdure.domain.errors import Forbidden, InvalidInput, NotFound, Unauthenticated
from perdure.stores.memory import MemoryJobStore
from perdure.testing.clock import MovableClock

SECOND = timedelta(seconds=1)


@pytest.fixture
def clock() -> MovableClock:
    return MovableClock()


@pytest.fixture
def keys(store: MemoryJobStore, clock: MovableClock) -> Keys:
    return Keys(store.values, clock)


async def test_a_key_is_recognised_by_its_token_alone(keys: Keys, store: MemoryJobStore) -> None:
    key, token = await keys.create("ci", tenant="acme", scope=Scope.READ, rate=5, actor="ann")
    assert await keys.verify(token) == key
    assert (key.tenant, key.scope, key.rate, key.created_by) == ("acme", Scope.READ, 5, "ann")
    kept = msgspec.json.encode([value.value for value in await store.values.scan(SPACE, 10)]).decode()
    assert token.rpartition("_")[2] not in kept
    for wrong in (token[:-1] + ("0" if token[-1] != "0" else "1"), token[:-1], "", "pdk_x", token + "\n"):
        with pytest.raises(Unauthenticated):
            await keys.verify(wrong)


async def test_a_store_is_without_keys_until_there_was_one(keys: Keys, clock: MovableClock) -> None:
    assert not await keys.used()
    key, _ = await keys.create("ci", tenant="acme")
    clock.advance(FRESH)
    assert await keys.used()
    await keys.revoke(key.id)
    clock.advance(FRESH)
    assert await keys.used()  # revoking the last one opens nothing


async def test_every_process_sees_a_revocation_in_time(
    keys: Keys, store: MemoryJobStore, clock: MovableClock
) -> None:
    other = Keys(store.values, clock)
    key, token = await keys.create("ci", tenant="acme")
    await other.verify(token)
    revoked = await keys.revoke(key.id)
    assert (await keys.revoke(key.id)).revoked_at == revoked.revoked_at
    with pytest.raises(Unauthenticated, match="revoked"):
        await keys.verify(token)
    clock.advance(FRESH)
    with pytest.raises(Unauthenticated, match="revoked"):
        await other.verify(token)
    with pytest.raises(Forbidden, match="revoked"):
        await keys.rotate(key.id)


async def test_a_key_expires_on_the_stores_clock(keys: Keys, clock: MovableClock) -> None:
    _, token = await keys.create("ci", tenant="acme", ttl=10 * SECOND)
    clock.advance(9 * SECOND)
    await keys.verify(token)
    clock.advance(SECOND)
    with pytest.raises(Unauthenticated, match="expired"):
        await keys.verify(token)


async def test_a_rotation_overlaps(keys: Keys, clock: MovableClock) -> None:
    key, old = await keys.create("ci", tenant="acme")
    _, new = await keys.rotate(key.id, overlap=10 * SECOND)
    assert (await keys.verify(old)).id == (await keys.verify(new)).id == key.id
    _, newest = await keys.rotate(key.id, overlap=60 * SECOND)
    clock.advance(10 * SECOND)  # the second rotation gives the first secret no longer life
    with pytest.raises(Unauthenticated, match="rotation"):
        await keys.verify(old)
    await keys.verify(new)
    clock.advance(50 * SECOND)
    with pytest.raises(Unauthenticated):
        await keys.verify(new)
    await keys.verify(newest)
    await keys.rotate(key.id, overlap=timedelta(0))
    with pytest.raises(Unauthenticated):
        await keys.verify(newest)


async def test_a_tenants_keys_are_its_own(keys: Keys) -> None:
    mine, _ = await keys.create("one", tenant="acme")
    await keys.create("two", tenant="other")
    everybodys, _ = await keys.create("gateway", tenant=None)
    assert len(await keys.all()) == 3
    assert await keys.all("acme") == [mine]
    for change in (keys.revoke, keys.rotate):
        with pytest.raises(NotFound):
            await change(mine.id, tenant="other")
        with pytest.raises(NotFound):
            await change(everybodys.id, tenant="acme")
    with pytest.raises(NotFound):
        await keys.revoke("000000000000")


async def test_what_does_not_fit_is_refused(keys: Keys) -> None:
    with pytest.raises(InvalidInput, match="name"):
        await keys.create("", tenant="acme")
    with pytest.raises(InvalidInput, match="tenant"):
        await keys.create("a", tenant="a b")
    with pytest.raises(InvalidInput, match="ttl"):
        await keys.create("a", tenant="acme", ttl=timedelta(0))
    with pytest.raises(InvalidInput, match="rate"):
        await keys.create("a", tenant="acme", rate=0)


async def test_two_changes_at_once_both_stand(keys: Keys, store: MemoryJobStore, clock: MovableClock) -> None:
    key, old = await keys.create("ci", tenant="acme")
    here, there = await keys.rotate(key.id), await Keys(store.values, clock).rotate(key.id)
    for token in (old, here[1], there[1]):
        assert (await Keys(store.values, clock).verify(token)).id == key.id
