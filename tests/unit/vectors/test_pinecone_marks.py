"""What a document's marks come to depends on nothing but the marks."""

from __future__ import annotations

import random

import pytest

from perdure.testing.vector_store.base import make_draft
from perdure.vectors.pinecone import marks as marking


def random_marks(chance: random.Random) -> list[str]:
    made = list[str]()
    for number in range(chance.randint(0, 12)):
        draft = make_draft(chance.randint(1, 4), chance.randint(1, 4))
        edition = marking.new_edition(draft, number)
        made.append(
            chance.choice(
                (
                    marking.began(draft, edition, number),
                    marking.began(draft, "", number),
                    marking.published(draft, edition, complete=chance.random() < 0.7),
                    marking.deleted(chance.randint(1, 3)),
                )
            )
        )
    return made


@pytest.mark.parametrize("seed", range(10))
def test_neither_order_nor_what_is_outdone_matters(seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(300):
        names = random_marks(chance)
        known = marking.read(names)
        again = marking.read(chance.sample(names, len(names)))
        assert again == known
        kept = marking.read(known.all - known.spent)
        assert (kept.head, kept.draft, kept.published, kept.standing) == (
            known.head,
            known.draft,
            known.published,
            known.standing,
        )
        assert kept.spent == set()


@pytest.mark.parametrize("seed", range(10))
def test_what_is_outdone_stays_so(seed: int) -> None:
    """So that a mark may be removed while others are still on their way."""
    chance = random.Random(seed)
    for _ in range(300):
        first, more = random_marks(chance), random_marks(chance)
        spent = marking.read(first).spent
        assert marking.read(first + more).spent >= spent
        without = marking.read((set(first) - spent) | set(more))
        assert without.head == marking.read(first + more).head
        assert without.standing == marking.read(first + more).standing
