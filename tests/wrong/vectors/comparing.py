"""What vectors are compared: of two models, or of none."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from msgspec.structs import replace

from perdure.domain.document import Draft, EmbeddedChunk
from perdure.domain.drafts import turn
from perdure.domain.errors import InvalidInput, ModelMismatch
from perdure.ports.vector_store import Begun
from perdure.vectors.memory.shelf import Edition
from tests.wrong.vectors.base import WrongVectors


class LendsVectorsAcrossModels(WrongVectors):
    """A new model gets the old one's vectors."""

    caught_by = "test_only_the_same_model_lends_its_vectors"

    async def vectors(self, draft: Draft, chunk_hashes: Collection[str]) -> dict[str, bytes]:
        published = self._entry(draft).published
        if published is not None:
            model, dimension = published.model
            draft = replace(draft, model=model, dimension=dimension)
        return await super().vectors(draft, chunk_hashes)


class ResumesAcrossModels(WrongVectors):
    """A run with another model takes up what the one before stored."""

    caught_by = "test_chunks_that_another_model_embedded_are_missing"

    async def begin(self, draft: Draft) -> Begun:
        edition = self._entry(draft).draft
        if edition is not None:
            edition.model = (draft.model, draft.dimension)
        return await super().begin(draft)


class MixesModels(WrongVectors):
    """A namespace takes vectors of any model."""

    caught_by = "test_a_namespace_keeps_to_its_model"

    async def begin(self, draft: Draft) -> Begun:
        try:
            return await super().begin(draft)
        except ModelMismatch:
            entry = self._entry(draft)
            entry.draft = Edition(draft)
            entry.begin(turn(draft))
            return Begun(published=None, resumed=False)


class TakesBadVectors(WrongVectors):
    """NaN goes in, and poisons every search."""

    caught_by = "test_a_bad_vector_is_refused_with_all_that_came_with_it"

    async def upsert(self, draft: Draft, chunks: Sequence[EmbeddedChunk]) -> None:
        try:
            await super().upsert(draft, chunks)
        except InvalidInput:
            return


class KeepsTheGoodOnes(WrongVectors):
    """A refused call leaves half of its chunks behind."""

    caught_by = "test_a_bad_vector_is_refused_with_all_that_came_with_it"

    async def upsert(self, draft: Draft, chunks: Sequence[EmbeddedChunk]) -> None:
        for item in chunks:
            await super().upsert(draft, [item])
