"""What is refused at the door, each time with the place and the remedy; what passes survives any database."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.domain import validation as check
from perdure.domain.errors import InvalidInput
from perdure.domain.record import Json

TEXTS = st.text('aZ0 é🦉\u2028"\\\x01\x7f\uffff', max_size=5)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS
)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner), max_leaves=20)


@given(VALUES)
def test_what_passes_survives_json(value: Json) -> None:
    check.json_value(value, "payload")
    text = json.dumps(value, ensure_ascii=False)
    assert json.loads(text.encode()) == value
    assert "\x00" not in text


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"a": [1, {"b": float("nan")}]}, "payload.a[1].b is nan; JSON has no such number"),
        ([float("inf")], "payload[0] is inf; JSON has no such number"),
        ({"n": 2**63}, "payload.n is 9223372036854775808; whole numbers must fit in 64 bits"),
        ({"n": -(2**63) - 1}, "payload.n is -9223372036854775809; whole numbers must fit in 64 bits"),
        ({"a": ["x", "bad\x00"]}, "payload.a[1] holds a NUL character at 3; remove it"),
        ({"a": "x\ud800"}, "payload.a holds a lone surrogate at 1; it is not valid text"),
        ({"a": {"k\x00": 1}}, "the key 'k\\x00' of payload.a holds a NUL character at 1"),
        ({"a": {"\udfff": 1}}, "the key '\\udfff' of payload.a holds a lone surrogate at 0"),
        ({"a": {1: 2}}, "payload.a has the key 1; keys must be texts"),
        ({"a": b"x"}, "payload.a is a bytes; JSON knows null, true/false, numbers, text"),
        ([datetime(2031, 1, 1, tzinfo=UTC)], "payload[0] is a datetime; JSON knows"),
        ({"a": {1, 2}}, "payload.a is a set; JSON knows"),
        (object(), "payload is a object; JSON knows"),
    ],
)
def test_a_refusal_names_the_path(value: object, message: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        check.json_value(value, "payload")
    assert str(caught.value).startswith(message)


def test_nesting_has_a_limit_and_passes_up_to_it() -> None:
    value: Json = 1
    for _ in range(check.MAX_DEPTH):
        value = [value]
    check.json_value(value, "payload")
    with pytest.raises(InvalidInput, match="is nested more than 64 levels deep"):
        check.json_value([value], "payload")


@pytest.mark.parametrize("value", ["a", "A9", "hr/policies", "team:x@y.z_1-2", "x" * 128])
def test_a_good_name_passes(value: str) -> None:
    assert check.name(value, "tenant") == value


@pytest.mark.parametrize("value", ["", " a", "-a", ".", "a b", "ä", "x" * 129, "a\n", "a\x00", None, 7])
def test_a_bad_name_is_refused(value: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        check.name(value, "tenant")
    assert str(caught.value).startswith(f"tenant {value!r} is not valid: expected 1 to 128 ")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("", "user_id must be a text that is not empty, got ''"),
        (None, "user_id must be a text that is not empty, got None"),
        ("x" * 1025, "user_id has 1025 characters; at most 1024 are allowed"),
        ("a\x00", "user_id holds a NUL character at 1; remove it"),
        ("ab\udc80", "user_id holds a lone surrogate at 2; it is not valid text"),
    ],
)
def test_a_bad_text_is_refused(value: str, message: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        check.text(value, "user_id")
    assert str(caught.value) == message


@given(TEXTS.filter(bool))
def test_a_good_text_passes(value: str) -> None:
    assert check.text(value, "user_id", limit=10_000) == value


def test_a_time_needs_its_zone() -> None:
    aware = datetime(2031, 1, 1, tzinfo=UTC)
    assert check.aware(aware, "run_at") is aware
    with pytest.raises(InvalidInput, match="run_at 2031-01-01T00:00:00 has no time zone"):
        check.aware(aware.replace(tzinfo=None), "run_at")


@pytest.mark.parametrize(
    ("text", "seconds"), [("45s", 45), ("90m", 5400), ("1h 30m", 5400), ("2d", 172_800), ("1.5h", 5400)]
)
def test_lengths_of_time(text: str, seconds: float) -> None:
    assert check.duration(text).total_seconds() == seconds


@pytest.mark.parametrize("text", ["", "5", "soon", "1h and a bit", "0s", "-3m"])
def test_what_is_no_length_of_time(text: str) -> None:
    with pytest.raises(InvalidInput):
        check.duration(text)
