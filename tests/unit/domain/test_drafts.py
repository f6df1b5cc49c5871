"""Which draft of a document may be written: the newest (version, epoch) that was begun, and none that was deleted."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from perdure.domain.document import Document, Draft
from perdure.domain.drafts import (
    UNKNOWN,
    Matching,
    Standing,
    Turn,
    check_begin,
    check_model,
    check_stored,
    check_write,
    is_published,
    newest_version,
    published_itself,
)
from perdure.domain.errors import ModelMismatch, StaleWrite, StoreError


def draft(version: int, epoch: int) -> Draft:
    document = Document(
        tenant="acme", namespace="hr", id="d1", version=version, content_hash="", ingestion_id="job-1"
    )
    return Draft(document=document, epoch=epoch, model="m", dimension=3, strategy="s")


def allowed(check: Callable[[Draft, Standing], None], turn: Turn, standing: Standing) -> bool:
    try:
        check(draft(*turn), standing)
    except StaleWrite:
        return False
    return True


@pytest.mark.parametrize(
    ("begun", "deleted", "may_begin", "may_write"),
    [
        (None, None, True, False),
        ((5, 2), None, True, True),
        ((5, 1), None, True, False),
        ((4, 9), None, True, False),
        ((5, 3), None, False, False),
        ((6, 1), None, False, False),
        ((5, 2), 4, True, True),
        ((5, 2), 5, False, False),
        (None, 6, False, False),
    ],
)
def test_the_newest_turn_holds_the_document(
    begun: Turn | None, deleted: int | None, may_begin: bool, may_write: bool
) -> None:
    standing = Standing(begun=begun, deleted=deleted)
    assert allowed(check_begin, (5, 2), standing) is may_begin
    assert allowed(check_write, (5, 2), standing) is may_write


def test_a_refusal_names_the_document_and_what_took_over() -> None:
    with pytest.raises(
        StaleWrite, match="document 'd1' version 5 of run 2 was superseded by version 6 of run 1"
    ):
        check_write(draft(5, 2), Standing(begun=(6, 1)))
    with pytest.raises(StaleWrite, match=r"was deleted .* submit the document again"):
        check_begin(draft(5, 2), Standing(deleted=5))


def test_vectors_of_two_models_do_not_mix() -> None:
    check_model(draft(1, 1), None)
    check_model(draft(1, 1), ("m", 3))
    for held in (("m", 4), ("other", 3)):
        with pytest.raises(ModelMismatch, match="namespace 'hr' holds vectors of"):
            check_model(draft(1, 1), held)


def test_only_what_is_stored_is_published() -> None:
    check_stored(draft(1, 1), ["a", "b"], {"a", "b", "c"})
    check_stored(draft(1, 1), [], set())
    with pytest.raises(StoreError, match=r"1 of 2 chunks of document 'd1' .* are not stored, b among them"):
        check_stored(draft(1, 1), ["a", "b"], {"a"})


def test_what_is_stored_is_told_apart_in_one_pass() -> None:
    matching = Matching(iter(["d", "b", "a", "b", "e"]), given={"d", "x"})
    assert [matching.shows(stored) for stored in ["a", "b", "c", "d"]] == [True, True, False, False]
    assert (matching.shown, matching.count) == ({"d"}, 3)
    with pytest.raises(StoreError, match=r"1 of 4 chunks of document 'd1' .* are not stored, e among them"):
        matching.end(draft(1, 1))


def test_whether_readers_see_the_drafts_version_and_by_whom() -> None:
    standing = Standing(begun=(5, 3), published=(5, 2))
    assert [is_published(draft(5, epoch), standing) for epoch in (1, 2, 3)] == [True] * 3
    assert [published_itself(draft(5, epoch), standing) for epoch in (1, 2, 3)] == [False, True, False]
    assert not is_published(draft(6, 2), standing)
    assert not is_published(draft(5, 2), UNKNOWN)


def test_a_deletion_outlives_everything_that_was_heard_of() -> None:
    assert newest_version(UNKNOWN) is None
    assert newest_version(Standing(begun=(7, 1), published=(5, 2), deleted=6)) == 7
    assert newest_version(Standing(deleted=6, published=(5, 2))) == 6
