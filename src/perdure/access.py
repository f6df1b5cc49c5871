"""The door, for every face alike: a credential comes in, a `Caller` with its tenant goes on."""

from __future__ import annotations

import asyncio
import ipaddress
import time
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from perdure.core.keys import Keys
from perdure.domain import validation as check
from perdure.domain.access import ORDER, Caller, Key, Scope
from perdure.domain.errors import Forbidden, InvalidInput, RateLimited, StoreUnavailable, Unauthenticated
from perdure.domain.job import DEFAULT_TENANT
from perdure.settings import Settings

_ALGORITHMS: Final = (
    "RS256",
    "RS384",
    "RS512",
    "PS256",
    "PS384",
    "PS512",
    "ES256",
    "ES384",
    "ES512",
    "EdDSA",
)
"""Those with a public key. A shared secret in a key set would let everybody who can check tokens make them."""
_KEEP: Final = 300.0
_RETRY: Final = 10.0
"""Seconds: how long a key set is kept, and how soon an unknown key's id makes it be read again."""
_LEEWAY: Final = 10
_SET_BYTES: Final = 1_000_000
_NO_KEY: Final = "send a key as the header Authorization: Bearer pdk_…; create one with: perdure keys create"


class Gate:
    """Checks credentials: API keys of the store, and JWTs where the settings name who signs them.

    A store without any key and settings without a signer ask nobody: whoever reaches the server is an admin.

    Args:
        monotonic: seconds that never go back, for rates and for how old a key set is.
    """

    def __init__(
        self, keys: Keys, settings: Settings, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._keys = keys
        self._tokens = Tokens(settings, monotonic) if settings.jwt_keys else None
        self._monotonic = monotonic
        self._buckets: dict[str, tuple[float, float]] = {}

    async def open(self) -> bool:
        """Whether calls need no credential."""
        return self._tokens is None and not await self._keys.used()

    async def admit(
        self, credential: str | None, scope: Scope, *, tenant: str | None = None, actor: str | None = None
    ) -> Caller:
        """Let a caller in, or say why not.

        Args:
            credential: the bearer token, without the word `Bearer`; None: none came.
            scope: what the call needs.
            tenant, actor: what the client says; the tenant must be the credential's own.

        Raises:
            Unauthenticated: it needs a credential, or a better one.
            Forbidden: the credential is another tenant's, or its scope too narrow.
            RateLimited: its key has used up its rate.
        """
        if await self.open():
            caller = Caller(tenant="", actor="")
        elif credential:
            caller = await self._recognise(credential)
        else:
            raise Unauthenticated(f"this server needs a credential; {_NO_KEY}")
        # Only now: strangers learn nothing, not even what fits.
        if tenant is not None:
            check.name(tenant, "tenant")
        if actor is not None:
            check.text(actor, "the actor", 128)
        if tenant and caller.tenant not in ("", tenant):
            raise Forbidden(
                f"the credential is not of tenant {tenant!r}; leave the tenant out, or use its own"
            )
        if ORDER.index(caller.scope) < ORDER.index(scope):
            raise Forbidden(
                f"the credential allows to {caller.scope}; this call needs one that allows {scope}"
            )
        return Caller(
            tenant=caller.tenant or tenant or DEFAULT_TENANT,
            scope=caller.scope,
            actor="/".join(filter(None, (caller.actor, actor))) or "user",
        )

    async def _recognise(self, credential: str) -> Caller:
        """The credential's own caller; without a tenant where it has all of them."""
        if self._tokens is not None and not credential.startswith("pdk_"):
            return await self._tokens.verify(credential)
        key = await self._keys.verify(credential)
        self._spend(key)
        return Caller(tenant=key.tenant or "", scope=key.scope, actor=key.name)

    def _spend(self, key: Key) -> None:
        """Take one call out of the key's bucket, which holds two seconds' worth and at least one call."""
        if key.rate is None:
            return
        now, full = self._monotonic(), max(1.0, 2 * key.rate)
        left, at = self._buckets.get(key.id, (full, now))
        left = min(full, left + (now - at) * key.rate)
        self._buckets[key.id] = (max(left - 1, 0.0) if left >= 1 else left, now)
        if left < 1:
            raise RateLimited((1 - left) / key.rate, f"the key {key.id} allows {key.rate:g} calls a second")


class Tokens:
    """JWTs of one issuer, for one audience, by its public keys.

    Raises:
        ImportError: PyJWT is not installed.
        InvalidInput: the settings name no issuer or audience.
    """

    def __init__(self, settings: Settings, monotonic: Callable[[], float] = time.monotonic) -> None:
        try:
            import jwt
        except ModuleNotFoundError as error:
            raise ImportError(
                'JWTs need PyJWT, which is not installed; run: pip install "perdure[jwt]"'
            ) from error
        if not settings.jwt_issuer or not settings.jwt_audience:
            raise InvalidInput(
                "PERDURE_JWT_KEYS is set; set PERDURE_JWT_ISSUER and PERDURE_JWT_AUDIENCE, too: a token that was made for "
                "somebody else must not open this server"
            )
        self._jwt = jwt
        self._settings = settings
        self._monotonic = monotonic
        self._set: Mapping[str | None, Any] = {}
        self._read_at = -_KEEP
        self._reading = asyncio.Lock()

    async def verify(self, token: str) -> Caller:
        """The caller that a token tells of.

        Raises:
            Unauthenticated: it is no JWT, not signed by the issuer, not for this audience, or has expired.
            Forbidden: it names no tenant.
            StoreUnavailable: the key set cannot be read.
        """
        try:
            kid = self._jwt.get_unverified_header(token).get("kid")
            claims = self._jwt.decode(
                token,
                await self._key(kid),
                algorithms=_ALGORITHMS,
                audience=self._settings.jwt_audience,
                issuer=self._settings.jwt_issuer,
                leeway=_LEEWAY,
                options={"require": ["exp", "iss", "aud", "sub"]},
            )
        except self._jwt.PyJWTError as error:
            raise Unauthenticated(f"the token is not good here: {error}; get a new one") from None
        return self._caller(claims)

    def _caller(self, claims: Mapping[str, Any]) -> Caller:
        claim = self._settings.jwt_tenant_claim
        tenant = claims.get(claim)
        if not isinstance(tenant, str) or not check.NAME.fullmatch(tenant):
            raise Forbidden(f"the token's claim {claim!r} names no tenant; have its issuer add it")
        told = claims.get("scope", "")
        words = told.split() if isinstance(told, str) else [str(word) for word in told]
        scopes = [scope for scope in ORDER if scope in words or f"perdure:{scope}" in words]
        if not scopes:
            raise Forbidden(
                "the token's claim `scope` has none of read, write, admin; have its issuer add it"
            )
        actor = "".join(letter if letter.isprintable() else "?" for letter in str(claims["sub"]))[:128]
        return Caller(tenant=tenant, scope=scopes[-1], actor=actor or "user")

    async def _key(self, kid: str | None) -> Any:
        async with self._reading:
            age = self._monotonic() - self._read_at
            if age >= _KEEP or (kid not in self._set and age >= _RETRY):
                await self._read(age)
        if kid is None and len(self._set) == 1:
            return next(iter(self._set.values()))
        if kid not in self._set:
            raise Unauthenticated(
                "the token is signed by a key that its issuer does not publish; get a new one"
            )
        return self._set[kid]

    async def _read(self, age: float) -> None:
        self._read_at = self._monotonic()
        try:
            text = await asyncio.to_thread(_fetch, self._settings.jwt_keys)
            keys = self._jwt.PyJWKSet.from_json(text.decode()).keys
        except (OSError, ValueError, self._jwt.PyJWTError) as error:
            if self._set:
                return  # the keys from before are good until it can be read again
            self._read_at -= _KEEP
            raise StoreUnavailable(f"the key set {self._settings.jwt_keys} cannot be read: {error}") from None
        self._set = {key.key_id: key for key in keys if key.key_type != "oct"}


def _fetch(place: str) -> bytes:
    if not place.startswith(("https://", "http://")):
        return Path(place).read_bytes()
    with urllib.request.urlopen(place, timeout=5) as answer:  # noqa: S310  # http or https
        return bytes(answer.read(_SET_BYTES))


async def check_host(gate: Gate, settings: Settings, host: str) -> None:
    """Refuse to be open to other machines by accident.

    Raises:
        InvalidInput: others can reach this address, nobody is asked for a credential, and no setting says it is meant.
    """
    if settings.allow_remote or is_loopback(host) or not await gate.open():
        return
    raise InvalidInput(
        f"host {host!r} can be reached from other machines, and the store has no keys: whoever reaches the server could "
        "read and delete everything. Make a key with: perdure keys create; or bind it to 127.0.0.1; or, in a network that "
        "is safe by itself, set PERDURE_ALLOW_REMOTE=true"
    )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
