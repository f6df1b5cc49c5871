"""The door: keys with scopes and rates, tokens of an issuer, and tenants that come from the credential."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from perdure.access import Gate
from perdure.core.keys import Keys
from perdure.domain.access import Caller, Scope
from perdure.domain.errors import (
    Forbidden,
    InvalidInput,
    RateLimited,
    StoreUnavailable,
    Unauthenticated,
)
from perdure.settings import Settings
from perdure.stores.memory import MemoryJobStore
from perdure.testing.clock import MovableClock

ISSUER, AUDIENCE = "https://id.example", "perdure"


class Time:
    """Seconds that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def keys() -> Keys:
    return Keys(MemoryJobStore().values, MovableClock())


async def test_without_keys_whoever_comes_is_let_in(keys: Keys) -> None:
    gate = Gate(keys, Settings())
    assert await gate.admit(None, Scope.ADMIN) == Caller(tenant="default", scope=Scope.ADMIN, actor="user")
    caller = await gate.admit("whatever", Scope.WRITE, tenant="acme", actor="ann")
    assert (caller.tenant, caller.actor) == ("acme", "ann")
    with pytest.raises(InvalidInput, match="tenant"):
        await gate.admit(None, Scope.READ, tenant="a b")


async def test_the_tenant_comes_from_the_key(keys: Keys) -> None:
    _, token = await keys.create("ci", tenant="acme", scope=Scope.WRITE)
    gate = Gate(keys, Settings())
    for named in (None, "acme"):
        caller = await gate.admit(token, Scope.WRITE, tenant=named)
        assert caller == Caller(tenant="acme", scope=Scope.WRITE, actor="ci")
    assert (await gate.admit(token, Scope.READ, actor="ann")).actor == "ci/ann"
    with pytest.raises(Forbidden, match="other"):
        await gate.admit(token, Scope.READ, tenant="other")
    with pytest.raises(Forbidden, match="admin"):
        await gate.admit(token, Scope.ADMIN)
    for nothing in (None, "", "Bearer", token + "x"):
        with pytest.raises(Unauthenticated, match="key"):
            await gate.admit(nothing, Scope.READ)


async def test_a_key_of_all_tenants_acts_for_the_one_that_is_named(keys: Keys) -> None:
    _, token = await keys.create("gateway", tenant=None, scope=Scope.READ)
    gate = Gate(keys, Settings())
    assert (await gate.admit(token, Scope.READ, tenant="acme")).tenant == "acme"
    assert (await gate.admit(token, Scope.READ)).tenant == "default"


async def test_a_key_has_a_rate(keys: Keys) -> None:
    _, token = await keys.create("ci", tenant="acme", rate=5)
    _, other = await keys.create("free", tenant="acme")
    clock = Time()
    gate = Gate(keys, Settings(), clock)
    for _ in range(10):
        await gate.admit(token, Scope.READ)
    with pytest.raises(RateLimited, match="5 calls a second") as told:
        await gate.admit(token, Scope.READ)
    assert told.value.seconds == pytest.approx(0.2)
    for _ in range(100):
        await gate.admit(other, Scope.READ)
    clock.now += 0.2
    await gate.admit(token, Scope.READ)
    with pytest.raises(RateLimited):
        await gate.admit(token, Scope.READ)


# --- tokens ---------------------------------------------------------------------------------

RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
STRANGER = rsa.generate_private_key(public_exponent=65537, key_size=2048)


def jwk(key: Any, kid: str) -> dict[str, Any]:
    algorithm = jwt.algorithms.ECAlgorithm if isinstance(key, ec.EllipticCurvePrivateKey) else None
    made = (algorithm or jwt.algorithms.RSAAlgorithm).to_jwk(key.public_key(), as_dict=True)
    return {**made, "kid": kid, "use": "sig"}


def token(key: Any = RSA, algorithm: str = "RS256", kid: str | None = "one", **claims: object) -> str:
    told = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "ann",
        "exp": time.time() + 60,
        "tenant": "acme",
        "scope": "openid perdure:write",
        **claims,
    }
    headers = {} if kid is None else {"kid": kid}
    return jwt.encode({k: v for k, v in told.items() if v is not None}, key, algorithm, headers=headers)


@pytest.fixture
def published(tmp_path: Path) -> Path:
    path = tmp_path / "keys.json"
    path.write_text(json.dumps({"keys": [jwk(RSA, "one")]}))
    return path


def settings(published: Path, **changes: str) -> Settings:
    fields = {"jwt_keys": str(published), "jwt_issuer": ISSUER, "jwt_audience": AUDIENCE}
    return Settings(**{**fields, **changes})  # type: ignore[arg-type]  # texts all


async def test_a_token_of_the_issuer_opens_its_tenant(keys: Keys, published: Path) -> None:
    gate = Gate(keys, settings(published))
    assert not await gate.open()
    for good in (token(), token(kid=None), token(scope=["read", "write"])):
        assert await gate.admit(good, Scope.WRITE) == Caller(tenant="acme", scope=Scope.WRITE, actor="ann")
    with pytest.raises(Forbidden, match="other"):
        await gate.admit(token(), Scope.READ, tenant="other")
    with pytest.raises(Unauthenticated):
        await gate.admit(None, Scope.READ)
    _, key = await keys.create("ci", tenant="acme")  # keys go on beside them
    assert (await gate.admit(key, Scope.READ)).actor == "ci"


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param({"iss": "https://evil.example"}, id="another issuer"),
        pytest.param({"aud": "somebody-else"}, id="another audience"),
        pytest.param({"exp": time.time() - 60}, id="expired"),
        pytest.param({"exp": None}, id="for ever"),
        pytest.param({"nbf": time.time() + 86_400}, id="not yet"),
        pytest.param({"sub": None}, id="nobody"),
        pytest.param({"key": STRANGER}, id="another signature"),
        pytest.param({"kid": "two"}, id="an unknown key"),
        pytest.param({"key": "s" * 64, "algorithm": "HS256"}, id="a shared secret"),
        pytest.param({"key": "", "algorithm": "none"}, id="no signature"),
    ],
)
async def test_any_other_token_is_refused(keys: Keys, published: Path, wrong: dict[str, Any]) -> None:
    gate = Gate(keys, settings(published))
    with pytest.raises(Unauthenticated, match="token"):
        await gate.admit(token(**wrong), Scope.READ)


@pytest.mark.parametrize("wrong", [{"tenant": None}, {"tenant": "a b"}, {"tenant": 7}, {"scope": "openid"}])
async def test_a_token_without_tenant_or_scope_may_nothing(
    keys: Keys, published: Path, wrong: dict[str, Any]
) -> None:
    with pytest.raises(Forbidden, match="issuer"):
        await Gate(keys, settings(published)).admit(token(**wrong), Scope.READ)


async def test_the_issuers_new_key_is_found_and_its_old_one_forgotten(keys: Keys, published: Path) -> None:
    clock = Time()
    gate = Gate(keys, settings(published), clock)
    await gate.admit(token(), Scope.READ)
    curve = ec.generate_private_key(ec.SECP256R1())
    new = token(curve, "ES256", "two")
    published.write_text(json.dumps({"keys": [jwk(curve, "two")]}))
    with pytest.raises(Unauthenticated):  # read a moment ago: guessing makes nobody read it again
        await gate.admit(new, Scope.READ)
    clock.now += 10
    await gate.admit(new, Scope.READ)
    with pytest.raises(Unauthenticated):
        await gate.admit(token(), Scope.READ)
    published.unlink()
    clock.now += 1000
    await gate.admit(new, Scope.READ)  # the issuer being away for a while stops nobody


async def test_settings_that_do_not_fit_are_told(keys: Keys, published: Path) -> None:
    for missing in ("jwt_issuer", "jwt_audience"):
        with pytest.raises(InvalidInput, match="PERDURE_JWT_AUDIENCE"):
            Gate(keys, settings(published, **{missing: ""}))
    for text in (None, "no json", '{"keys": []}'):
        published.unlink() if text is None else published.write_text(text)
        with pytest.raises(StoreUnavailable, match="key set"):
            await Gate(keys, settings(published)).admit(token(), Scope.READ)


async def test_a_shared_secret_among_the_keys_is_not_taken(keys: Keys, published: Path) -> None:
    """Whoever may check tokens by it could make them."""
    secret = {"kty": "oct", "k": "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2U", "kid": "s", "alg": "HS256"}
    published.write_text(json.dumps({"keys": [jwk(RSA, "one"), secret]}))
    with pytest.raises(Unauthenticated):
        await Gate(keys, settings(published)).admit(token("secret" * 8, "HS256", "s"), Scope.READ)
