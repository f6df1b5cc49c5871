"""Ids: time-ordered ones for jobs, ones made of their parts for chunks."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.domain.errors import InvalidInput
from perdure.domain.ids import parse_uuid, uuid5, uuid7

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
TIMES = st.timedeltas(timedelta(0), timedelta(days=47_000)).map(lambda age: EPOCH + age)
RANDOM = st.integers(0, 2**80)
PARTS = st.text("a1:é", max_size=4)


@given(TIMES, RANDOM)
def test_uuid7_is_one_by_the_rfc(now: datetime, random: int) -> None:
    made = uuid7(now, random)
    read = uuid.UUID(made)
    assert str(read) == made
    assert (read.version, read.variant) == (7, uuid.RFC_4122)
    assert read.int >> 80 == (now - EPOCH) // timedelta(milliseconds=1)


@given(TIMES, st.timedeltas(timedelta(microseconds=1), timedelta(days=3650)), RANDOM, RANDOM)
def test_uuid7_sorts_by_time_to_the_microsecond(now: datetime, later: timedelta, one: int, two: int) -> None:
    assert uuid7(now, one) < uuid7(now + later, two)


@given(TIMES, st.integers(0, 2**62 - 2))
def test_uuid7_of_one_moment_sorts_by_its_random_part(now: datetime, random: int) -> None:
    assert uuid7(now, random) < uuid7(now, random + 1)


def test_uuid7_is_what_it_always_was() -> None:
    now = datetime(2031, 5, 4, 12, 30, 15, 123_456, tzinfo=UTC)
    assert uuid7(now, 0) == "01c2ae93-f453-774b-8000-000000000000"
    assert uuid7(now, 2**80 - 1) == "01c2ae93-f453-774b-bfff-ffffffffffff"


@given(st.lists(PARTS, max_size=4), st.lists(PARTS, max_size=4))
def test_uuid5_differs_where_the_parts_do(one: list[str], two: list[str]) -> None:
    assert (uuid5(*one) == uuid5(*two)) == (one == two)


@given(PARTS, PARTS.filter(bool), PARTS)
def test_uuid5_sees_where_one_part_ends(a: str, b: str, c: str) -> None:
    assert uuid5(a + b, c) != uuid5(a, b + c)
    assert uuid5(a, b, c) != uuid5(a, b + c)


def test_uuid5_is_one_and_is_what_it_always_was() -> None:
    made = uuid5("acme", "hr", "Größe")
    assert uuid.UUID(made).version == 5
    assert made == "7012c975-f2e5-5771-b585-be3c4b9c996e"


@pytest.mark.parametrize(
    "text",
    [
        "0198C0DE-7A3E-7ABC-8DEF-0123456789AB",
        "0198c0de7a3e7abc8def0123456789ab",
        "{0198c0de-7a3e-7abc-8def-0123456789ab}",
        "urn:uuid:0198c0de-7a3e-7abc-8def-0123456789ab",
    ],
)
def test_every_spelling_of_a_uuid_is_read_as_one(text: str) -> None:
    assert parse_uuid(text) == "0198c0de-7a3e-7abc-8def-0123456789ab"


@pytest.mark.parametrize("text", ["", "nope", "0198c0de-7a3e-7abc-8def-0123456789a", None, 7, "٠" * 32 + "x"])
def test_anything_else_is_refused_with_what_was_expected(text: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_uuid(text, "job id")
    assert str(caught.value).startswith(f"job id {text!r} is not a UUID; expected the form ")
