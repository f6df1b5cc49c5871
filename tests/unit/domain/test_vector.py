"""What bytes are a vector: the quick look agrees with the exact one, whatever the numbers."""

from __future__ import annotations

import math
import random
import struct

import pytest

from perdure.domain.errors import InvalidInput
from perdure.domain.vector import LONGEST, SHORTEST, check_vector

ODD = (
    0.0,
    -0.0,
    math.nan,
    math.inf,
    -math.inf,
    1e-45,
    -1e-45,
    3e38,
    -3e38,
    2.0**18,
    2.0**19,
    2.0**-19,
    2.0**-20,
)


def numbers(chance: random.Random) -> list[float]:
    scale = 2.0 ** chance.choice((-60, -40, -20, -19, -18, 0, 18, 19, 20, 50, 100))
    return [
        chance.choice(ODD) if chance.random() < 0.2 else scale * chance.uniform(-1, 1)
        for _ in range(chance.choice((1, 2, 7, 64)))
    ]


@pytest.mark.parametrize("seed", range(4))
def test_a_vector_is_taken_if_and_only_if_its_length_is_in_range(seed: int) -> None:
    chance, outcomes = random.Random(seed), set[bool]()
    for _ in range(1000):
        given = numbers(chance)
        packed = struct.pack(f"<{len(given)}f", *given)
        right = SHORTEST < math.hypot(*struct.unpack(f"<{len(given)}f", packed)) < LONGEST
        try:
            check_vector(packed, len(given), "it")
            taken = True
        except InvalidInput:
            taken = False
        assert taken == right, given
        outcomes.add(taken)
    assert outcomes == {True, False}
