"""Waits between runs stay inside their bounds, whatever the policy."""

from __future__ import annotations

import math
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.domain.errors import InvalidInput
from perdure.domain.retry import RetryPolicy

POLICIES = st.builds(
    RetryPolicy,
    base=st.floats(0, 1e6),
    factor=st.floats(1, 1e6),
    ceiling=st.floats(0, 1e6),
    jitter=st.floats(0, 1),
)
CHANCES = st.floats(0, 1, exclude_max=True)


@given(POLICIES, st.integers(1, 10**9), CHANCES)
def test_a_wait_is_never_negative_and_never_over_the_ceiling(
    policy: RetryPolicy, attempt: int, chance: float
) -> None:
    assert timedelta(0) <= policy.delay(attempt, chance) <= timedelta(seconds=policy.ceiling)


@given(POLICIES, st.integers(1, 200), CHANCES)
def test_waits_grow_from_run_to_run(policy: RetryPolicy, attempt: int, chance: float) -> None:
    assert policy.delay(attempt, chance) <= policy.delay(attempt + 1, chance)


@given(POLICIES, st.integers(1, 200), CHANCES)
def test_chance_takes_away_at_most_its_share(policy: RetryPolicy, attempt: int, chance: float) -> None:
    whole, drawn = policy.delay(attempt, 0.0), policy.delay(attempt, chance)
    least = whole.total_seconds() * (1 - policy.jitter)
    assert least - 1e-6 <= drawn.total_seconds() <= whole.total_seconds()


def test_without_jitter_the_waits_double_up_to_the_ceiling() -> None:
    policy = RetryPolicy(base=2, factor=2, ceiling=60, jitter=0)
    assert [policy.delay(n, 0.99).total_seconds() for n in range(1, 8)] == [2, 4, 8, 16, 32, 60, 60]


def test_full_jitter_may_come_down_to_nothing() -> None:
    policy = RetryPolicy(base=10, jitter=1)
    assert policy.delay(1, 0.0) == timedelta(seconds=10)
    assert policy.delay(1, 0.999999) < timedelta(seconds=0.001)


def test_a_slow_growth_reaches_the_ceiling_too() -> None:
    policy = RetryPolicy(base=1, factor=1.01, ceiling=60, jitter=0)
    assert policy.delay(400, 0.0) < timedelta(seconds=60) == policy.delay(450, 0.0)


@pytest.mark.parametrize("base", [0.0, 2.0])
def test_numbers_beyond_all_measure_stay_in_bounds(base: float) -> None:
    policy = RetryPolicy(base=base, factor=1e300, ceiling=60, jitter=0)
    assert policy.delay(10**9, 0.0) == timedelta(seconds=60 if base else 0)


@pytest.mark.parametrize(
    ("over", "message"),
    [
        ({"max_attempts": 0}, "max_attempts is 0; expected 1 or more"),
        ({"jitter": 1.1}, "jitter is 1.1; expected 0.0 to 1.0"),
        ({"jitter": -0.1}, "jitter is -0.1; expected 0.0 to 1.0"),
        ({"base": -1.0}, "base and ceiling must be 0 or more, factor 1 or more"),
        ({"factor": 0.5}, "base and ceiling must be 0 or more, factor 1 or more"),
        ({"base": math.nan}, "base and ceiling must be 0 or more, factor 1 or more"),
        ({"jitter": math.nan}, "jitter is nan; expected 0.0 to 1.0"),
        ({"ceiling": -1.0}, "base and ceiling must be 0 or more, factor 1 or more"),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(over: dict[str, float], message: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        RetryPolicy(**over)  # type: ignore[arg-type]  # max_attempts is an int above
    assert str(caught.value) == message
