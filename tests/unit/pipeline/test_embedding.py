from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np
import pytest

from perdure.domain.errors import EmbedderError, InvalidInput, RetryAfter, TextRejected
from perdure.embedders.hashing import HashingEmbedder
from perdure.pipeline.embedding import EmbeddingBatcher, Outcome
from tests.unit.pipeline.fakes import FakeEmbedder, settle

FOR_EVER = 10_000.0


async def expected(texts: Sequence[str], dimension: int = 8) -> list[bytes]:
    vectors = np.concatenate([await HashingEmbedder(dimension).embed([text], "document") for text in texts])
    return [vector.astype("<f4").tobytes() for vector in vectors]


async def ask(batcher: EmbeddingBatcher, *texts: str) -> list[Outcome]:
    async with batcher.embed(texts) as outcomes:
        return outcomes.outcomes


async def document(batcher: EmbeddingBatcher, *texts: str) -> list[Outcome]:
    with batcher.document():
        await asyncio.sleep(0)
        return await ask(batcher, *texts)


async def test_texts_of_many_documents_share_batches_and_come_back_in_order() -> None:
    embedder = FakeEmbedder(max_batch=10)
    batcher = EmbeddingBatcher(embedder, max_wait=FOR_EVER)
    texts = [[f"document {d} text {t}" for t in range(3)] for d in range(10)]
    answers = await asyncio.gather(*(document(batcher, *mine) for mine in texts))
    # A document is not torn apart: what it got is stored before more is paid for.
    assert [len(batch) for batch in embedder.batches] == [9, 9, 9, 3]
    assert answers == [await expected(mine) for mine in texts]


async def test_request_larger_than_a_batch_is_spread_over_several() -> None:
    embedder = FakeEmbedder(max_batch=4)
    texts = [f"text {number}" for number in range(11)]
    assert await document(EmbeddingBatcher(embedder), *texts) == await expected(texts)
    assert [len(batch) for batch in embedder.batches] == [4, 4, 3]


async def test_nothing_to_embed_is_no_call() -> None:
    embedder = FakeEmbedder()
    assert await ask(EmbeddingBatcher(embedder)) == []
    assert embedder.batches == []


async def test_full_batch_leaves_though_other_documents_are_still_reading() -> None:
    embedder = FakeEmbedder(max_batch=2)
    batcher = EmbeddingBatcher(embedder, max_wait=FOR_EVER)
    with batcher.document():
        assert len(await document(batcher, "one", "two")) == 2


async def test_batch_waits_for_documents_that_are_still_reading_until_they_leave() -> None:
    embedder = FakeEmbedder(max_batch=4)
    batcher = EmbeddingBatcher(embedder, max_wait=FOR_EVER)
    with batcher.document():
        asking = asyncio.create_task(document(batcher, "one"))
        await settle()
        assert embedder.batches == []
    assert len(await asking) == 1


async def test_batch_leaves_when_every_document_under_way_waits() -> None:
    embedder = FakeEmbedder(max_batch=4)
    batcher = EmbeddingBatcher(embedder, max_wait=FOR_EVER)
    await asyncio.gather(document(batcher, "one"), document(batcher, "two"))
    assert embedder.batches == [["one", "two"]]


async def test_batch_leaves_when_its_oldest_text_has_waited_long_enough() -> None:
    embedder = FakeEmbedder(max_batch=4)
    batcher = EmbeddingBatcher(embedder, max_wait=0.001)
    with batcher.document():
        assert len(await document(batcher, "one")) == 1


@pytest.mark.parametrize("concurrency", [1, 3])
async def test_no_more_batches_than_allowed_are_at_the_model_and_texts_gather_meanwhile(
    concurrency: int,
) -> None:
    embedder = FakeEmbedder(max_batch=4)
    embedder.gate.clear()
    batcher = EmbeddingBatcher(embedder, max_wait=0, concurrency=concurrency)
    asking = []
    for number in range(concurrency + 4):
        asking.append(asyncio.create_task(ask(batcher, f"text {number}")))
        await settle()
    embedder.gate.set()
    await asyncio.gather(*asking)
    assert embedder.most_under_way == concurrency
    assert [len(batch) for batch in embedder.batches] == [1] * concurrency + [4]


@pytest.mark.parametrize("error", [TextRejected, InvalidInput])
@pytest.mark.parametrize("poisoned", [{0}, {7}, {3, 4}, set(range(8))])
async def test_text_that_the_model_refuses_fails_alone(error: type[Exception], poisoned: set[int]) -> None:
    embedder = FakeEmbedder(max_batch=8)
    embedder.poison, embedder.poison_error = "poison", error
    texts = [f"text {number}" + " poison" * (number in poisoned) for number in range(8)]
    batcher = EmbeddingBatcher(embedder)
    answers = await asyncio.gather(document(batcher, *texts[:3]), document(batcher, *texts[3:]))
    outcomes = [*answers[0], *answers[1]]
    good = await expected(texts)
    for number, outcome in enumerate(outcomes):
        if number in poisoned:
            assert isinstance(outcome, TextRejected)
            assert "will not take this" in str(outcome)
        else:
            assert outcome == good[number]


@pytest.mark.parametrize("error", [EmbedderError("down"), RuntimeError("a bug")])
async def test_failed_batch_fails_its_callers_and_no_others(error: Exception) -> None:
    embedder = FakeEmbedder(max_batch=2)
    embedder.errors = [error]
    batcher = EmbeddingBatcher(embedder)
    first, second, third = await asyncio.gather(
        document(batcher, "a"), document(batcher, "b"), document(batcher, "c", "d"), return_exceptions=True
    )
    assert first is error
    assert second is error
    assert third == await expected(["c", "d"])


async def test_who_asks_to_wait_asks_all_who_are_in_the_queue() -> None:
    embedder = FakeEmbedder(max_batch=2)
    embedder.errors = [RetryAfter(3.0)]
    batcher = EmbeddingBatcher(embedder)
    told = await asyncio.gather(
        document(batcher, "a"), document(batcher, "b"), document(batcher, "c", "d"), return_exceptions=True
    )
    assert [type(error) for error in told] == [RetryAfter] * 3
    assert await document(batcher, "c", "d") == await expected(["c", "d"])


async def test_next_batch_waits_until_the_last_one_is_stored() -> None:
    embedder = FakeEmbedder(max_batch=2)
    batcher = EmbeddingBatcher(embedder, max_wait=0)
    stored = asyncio.Event()

    async def store(*texts: str) -> None:
        async with batcher.embed(texts):
            await stored.wait()

    storing = [asyncio.create_task(store("a")), asyncio.create_task(store("b"))]
    await settle()
    following = asyncio.create_task(ask(batcher, "c"))
    await settle()
    assert embedder.batches == [["a", "b"]]
    stored.set()
    await asyncio.gather(*storing, following)
    assert embedder.batches == [["a", "b"], ["c"]]


async def test_caller_that_fails_to_store_holds_up_nobody() -> None:
    embedder = FakeEmbedder(max_batch=1)
    batcher = EmbeddingBatcher(embedder, max_wait=0)
    with pytest.raises(OSError, match="disk"):
        async with batcher.embed(["a"]):
            raise OSError("disk full")
    assert await ask(batcher, "b") == await expected(["b"])


async def test_failed_batch_leaves_the_batcher_usable() -> None:
    embedder = FakeEmbedder()
    embedder.errors = [EmbedderError("down")]
    batcher = EmbeddingBatcher(embedder, max_wait=FOR_EVER)
    with pytest.raises(EmbedderError):
        await document(batcher, "one")
    assert await document(batcher, "one") == await expected(["one"])


class Odd(FakeEmbedder):
    """Gives whatever vectors it is told."""

    def __init__(self, vectors: object) -> None:
        super().__init__(dimension=2)
        self.vectors = np.array(vectors, dtype=np.float32)

    async def embed(self, texts: Sequence[str], purpose: object) -> np.ndarray:
        return self.vectors


@pytest.mark.parametrize("vectors", [[[1, 0]], [[1, 0, 0], [1, 0, 0]], [1, 0], [[1, 0]] * 3])
async def test_vectors_of_another_shape_are_an_error_of_the_model(vectors: object) -> None:
    with pytest.raises(EmbedderError, match=r"expected \(2, 2\); check the model's name"):
        await ask(EmbeddingBatcher(Odd(vectors)), "a", "b")


async def test_vectors_that_are_none_fail_their_text_only() -> None:
    odd = [[np.nan, 0], [1, 0], [np.inf, 0], [0, 0]]
    outcomes = await ask(EmbeddingBatcher(Odd(odd)), "a", "b", "c", "d")
    assert [isinstance(outcome, TextRejected) for outcome in outcomes] == [True, False, True, True]
    assert outcomes[1] == np.array([1, 0], dtype="<f4").tobytes()


async def test_cancelled_caller_disturbs_nobody_and_its_texts_are_not_sent() -> None:
    embedder = FakeEmbedder(max_batch=2)
    embedder.gate.clear()
    batcher = EmbeddingBatcher(embedder, max_wait=0)
    asking = [asyncio.create_task(ask(batcher, *texts)) for texts in ("ab", "cd", "ef")]
    await settle()
    asking[0].cancel()  # at the model
    asking[1].cancel()  # in the queue
    await settle()
    embedder.gate.set()
    assert await asking[2] == await expected(["e", "f"])
    assert embedder.batches == [["a", "b"], ["e", "f"]]
    assert all(task.cancelled() for task in asking[:2])


async def test_closing_fails_those_who_wait_and_those_who_come_later() -> None:
    embedder = FakeEmbedder(max_batch=1)
    embedder.gate.clear()
    batcher = EmbeddingBatcher(embedder)
    asking = [asyncio.create_task(ask(batcher, text)) for text in "ab"]
    await settle()
    await batcher.close()
    await batcher.close()
    answers = await asyncio.gather(*asking, return_exceptions=True)
    assert [type(answer) for answer in answers] == [EmbedderError, EmbedderError]
    with pytest.raises(EmbedderError, match="closing down"):
        await ask(batcher, "c")
    assert embedder.under_way == 0


@pytest.mark.parametrize(("max_wait", "concurrency"), [(-1.0, 1), (0.0, 0)])
def test_impossible_settings_are_refused(max_wait: float, concurrency: int) -> None:
    with pytest.raises(InvalidInput, match="expected 0 or more seconds"):
        EmbeddingBatcher(HashingEmbedder(), max_wait=max_wait, concurrency=concurrency)


def test_model_is_the_embedders() -> None:
    batcher = EmbeddingBatcher(HashingEmbedder(16))
    assert (batcher.model, batcher.dimension, batcher.max_batch) == ("hashing-1:16", 16, 256)


async def test_model_that_breaks_off_is_an_error_and_holds_up_nobody() -> None:
    class Leaky(FakeEmbedder):
        async def embed(self, texts: Sequence[str], purpose: object) -> np.ndarray:
            if "leak" in texts:
                raise asyncio.CancelledError
            return await super().embed(texts, "document")

    batcher = EmbeddingBatcher(Leaky(), max_wait=0)
    with pytest.raises(EmbedderError, match="broke off"):
        await ask(batcher, "leak")
    assert await ask(batcher, "b") == await expected(["b"])
