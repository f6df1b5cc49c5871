"""API keys, kept hashed in the store: made, listed, rotated, revoked, and recognised at the door."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

import msgspec

from perdure.domain.access import Key, Scope, Secret
from perdure.domain.errors import Forbidden, InvalidInput, NotFound, StoreError, Unauthenticated
from perdure.domain.value import Value
from perdure.ports.key_value import KeyValueStore

SPACE: Final = "keys"
FRESH: Final = timedelta(seconds=3)
"""How long a process trusts what it read of a key: as late a revocation is seen."""
OVERLAP: Final = timedelta(hours=24)
_TOKEN: Final = re.compile(r"pdk_([0-9a-f]{12})_([0-9a-f]{64})")
_SEEN: Final = 10_000
"""Keys that are remembered, those that do not exist among them: guessing costs memory, not the store."""
_PAGE: Final = 500
_TRIES: Final = 20


class Keys:
    """The keys of a store.

    Args:
        now: the store's clock.
        chance: gives so many random bytes, as hexadecimal text.
    """

    def __init__(
        self,
        values: KeyValueStore,
        now: Callable[[], datetime],
        *,
        chance: Callable[[int], str] = secrets.token_hex,
    ) -> None:
        self._values = values
        self._now = now
        self._chance = chance
        self._seen: dict[str, tuple[datetime, Key | None]] = {}
        self._used = (now() - FRESH, False)

    async def create(
        self,
        name: str,
        *,
        tenant: str | None,
        scope: Scope = Scope.WRITE,
        ttl: timedelta | None = None,
        rate: float | None = None,
        actor: str = "",
    ) -> tuple[Key, str]:
        """Make a key; it and its token (``pdk_…``), which nobody can tell again.

        Args:
            tenant: whose things it opens; None: any tenant's.
            ttl: how long it is good; None: until it is revoked.
            rate: calls a second that each server process allows; None: no limit.

        Raises:
            InvalidInput: a name, the ttl or the rate does not fit.
        """
        if ttl is not None and ttl <= timedelta(0):
            raise InvalidInput(f"ttl is {ttl}; expected more than zero, or None")
        now = self._now()
        secret = self._chance(32)
        key = Key(
            id=self._chance(6),
            name=name,
            tenant=tenant,
            scope=scope,
            secrets=(Secret(sha256=_hash(secret)),),
            created_at=now,
            created_by=actor,
            expires_at=None if ttl is None else now + ttl,
            rate=rate,
        )
        if await self._values.write(SPACE, key.id, msgspec.to_builtins(key), expect=0) is None:
            raise StoreError(f"the key id {key.id} is taken, by chance; create the key again")
        return key, f"pdk_{key.id}_{secret}"

    async def all(self, tenant: str | None = None) -> list[Key]:
        """The keys, the ended ones among them, by id; of this tenant alone where one is named."""
        found: list[Key] = []
        after = ""
        while page := await self._values.scan(SPACE, _PAGE, after):
            found += [key for key in map(_read, page) if tenant in (None, key.tenant)]
            after = page[-1].key
        return found

    async def used(self) -> bool:
        """Whether any key was ever made here: then every call needs one. A revoked key counts, too."""
        at, used = self._used
        if not used and self._now() - at >= FRESH:
            self._used = (self._now(), bool(await self._values.scan(SPACE, 1)))
        return self._used[1]

    async def rotate(
        self, key_id: str, *, tenant: str | None = None, overlap: timedelta = OVERLAP
    ) -> tuple[Key, str]:
        """Give a key a new token; the old one is good for `overlap` longer.

        Args:
            tenant: whose key it must be; None: anybody's.

        Raises:
            NotFound: there is none. Forbidden: it is revoked or has expired.
        """
        secret = self._chance(32)

        def rotated(key: Key) -> Key:
            now = self._now()
            if why := key.ended(now):
                raise Forbidden(f"the key {key.id} {why}; create a new one")
            old = [
                msgspec.structs.replace(kept, until=min(kept.until or now + overlap, now + overlap))
                for kept in key.secrets
                if kept.until is None or kept.until > now
            ]
            return msgspec.structs.replace(key, secrets=(Secret(sha256=_hash(secret)), *old[:4]))

        return await self._change(key_id, tenant, rotated), f"pdk_{key_id}_{secret}"

    async def revoke(self, key_id: str, *, tenant: str | None = None) -> Key:
        """End a key; every process knows within `FRESH`. Its record stays.

        Raises:
            NotFound: there is none.
        """
        return await self._change(
            key_id,
            tenant,
            lambda key: msgspec.structs.replace(key, revoked_at=key.revoked_at or self._now()),
        )

    async def verify(self, token: str) -> Key:
        """The key whose token this is.

        Raises:
            Unauthenticated: there is none, or it has ended.
        """
        if (parts := _TOKEN.fullmatch(token)) is None:
            raise Unauthenticated(
                "the credential is no key of Perdure (pdk_…); create one with: perdure keys create"
            )
        now, digest = self._now(), _hash(parts[2])
        key = await self._recall(parts[1], now)
        # Every secret is compared, each in constant time: how long it takes tells nothing.
        fits = [
            hmac.compare_digest(kept.sha256, digest) and (kept.until is None or kept.until > now)
            for kept in (key.secrets if key else ())
        ]
        if key is None or not any(fits):
            raise Unauthenticated(
                "this key is not known here, or was replaced by a rotation; use the new one"
            )
        if why := key.ended(now):
            raise Unauthenticated(f"the key {key.id} ({key.name}) {why}; create a new one")
        return key

    async def _recall(self, key_id: str, now: datetime) -> Key | None:
        at, key = self._seen.get(key_id, (None, None))
        if at is None or now - at >= FRESH:
            value = (await self._values.read(SPACE, [key_id])).get(key_id)
            key = None if value is None else _read(value)
            if len(self._seen) >= _SEEN:
                self._seen.clear()
            self._seen[key_id] = (now, key)
        return key

    async def _change(self, key_id: str, tenant: str | None, change: Callable[[Key], Key]) -> Key:
        for _ in range(_TRIES):
            value = (await self._values.read(SPACE, [key_id])).get(key_id)
            if value is None or tenant not in (None, (key := _read(value)).tenant):
                raise NotFound(f"there is no key {key_id}; perdure keys list shows all of them")
            after = change(key)
            if await self._values.write(SPACE, key_id, msgspec.to_builtins(after), expect=value.version):
                self._seen.pop(key_id, None)
                return after
        raise StoreError(f"the key {key_id} changed {_TRIES} times while being changed; try again")


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _read(value: Value) -> Key:
    return msgspec.convert(value.value, Key)
