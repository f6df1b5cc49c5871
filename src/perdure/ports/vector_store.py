"""Where chunks live.

A document version is written as a *draft*, invisible, and becomes visible whole by `publish`; until then
readers see the version before. Drafts are ordered by (version, epoch): a newer one supersedes an older
one, which from then on gets `StaleWrite`. A version that was published incomplete may be published again by a newer
epoch; a complete one stays as it is.

As in `perdure.ports.job_store`: writes that returned are durable, every call may be repeated, only
`PerdureError` comes out, and no call returns another tenant's data.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

from perdure.domain.document import (
    Chunk,
    Draft,
    EmbeddedChunk,
    Namespace,
    StoredDocument,
)
from perdure.domain.record import Record
from perdure.domain.search import Hit, SearchQuery


class VectorCapabilities(Record):
    """What a vector store can do beyond the contract.

    Attributes:
        durable: chunks survive the process, and a crash of the machine.
        multi_process: several processes may share the store.
        full_text: `search_text` finds by words.
        affirms: `affirm` finds what did not change; without it, it finds nothing.
    """

    durable: bool
    multi_process: bool
    full_text: bool
    affirms: bool = True


class Begun(Record):
    """What `begin` found.

    Attributes:
        published: the version that readers see now; None if there is none.
        resumed: the draft was begun before, so that some of its chunks may be stored.
    """

    published: StoredDocument | None
    resumed: bool


class Audit(Record):
    """What a store says of a document, and what lies there.

    Attributes:
        stored: what it says that readers see; None: nothing.
        deleted: the newest version that was deleted; None: none was.
        chunks: of what readers see, chunks that are there with their text.
        vectors: of those, how many have their vector.
        settled: False where what readers see is not what was last published or deleted.
    """

    stored: StoredDocument | None = None
    deleted: int | None = None
    chunks: int = 0
    vectors: int = 0
    settled: bool = True

    @property
    def whole(self) -> bool:
        """Whether all is as the store says."""
        told = self.stored.chunk_count if self.stored else 0
        return self.settled and told == self.chunks == self.vectors


class Surplus(Record):
    """What lies in a namespace and should not.

    Attributes:
        chunks: chunks, or vectors without one, that belong to nothing that readers see, to no draft, and to nothing that `sweep`
            will remove.
        miscounted: by how many documents and chunks together the namespace's counts are wrong.
    """

    chunks: int = 0
    miscounted: int = 0


class VectorStore(Protocol):
    """The contract. Everything here is tested by `perdure.testing.VectorStoreContract`."""

    @property
    def capabilities(self) -> VectorCapabilities:
        """The store's abilities; constant."""
        ...

    async def setup(self) -> None:
        """Create or migrate what the store needs. Many replicas may call it at once."""
        ...

    async def close(self) -> None:
        """Free what the store holds. May be called twice."""
        ...

    async def begin(self, draft: Draft) -> Begun:
        """Register a draft, or take it up again, superseding older ones of the document.

        Raises:
            StaleWrite: a newer (version, epoch) was begun, or a version as new or newer was published by
                a newer epoch, or deleted. Beginning what is published already, under the same or a newer epoch, is fine:
                it leads to nothing new.
            ModelMismatch: the namespace holds vectors of another model or dimension.
        """
        ...

    async def affirm(self, drafts: Sequence[Draft]) -> list[StoredDocument | None]:
        """Begin, in one step, those of the drafts that would show readers what they see already
        (`perdure.domain.drafts.shows_already`), so that nothing older is published after them. Nothing becomes of the others.

        Args:
            drafts: of different documents, of one namespace and model.

        Returns:
            For each what readers see; None where that is something else, where `begin` would raise `StaleWrite`, and
            where chunks of another draft are stored.
        """
        ...

    async def missing(self, draft: Draft, chunk_ids: Sequence[str]) -> set[str]:
        """Those of `chunk_ids` that are not stored yet, under this draft or as published."""
        ...

    async def vectors(self, draft: Draft, chunk_hashes: Collection[str]) -> dict[str, bytes]:
        """Vectors that the document's published version has for these texts (chunk_hash → vector), if it
        comes from the draft's model and dimension: what did not change is not embedded again.
        """
        ...

    async def upsert(self, draft: Draft, chunks: Sequence[EmbeddedChunk]) -> None:
        """Store chunks of the draft, invisible; an id that is there is overwritten.

        Raises:
            StaleWrite: the draft was superseded.
            InvalidInput: a vector is not ``dimension * 4`` bytes, holds NaN or infinity, or has no direction (all
                zeros); nothing of the call is stored.
        """
        ...

    async def publish(
        self,
        draft: Draft,
        chunk_ids: Collection[str],
        *,
        last: Sequence[EmbeddedChunk] = (),
        complete: bool = True,
    ) -> StoredDocument:
        """Make the draft the version that readers see, in one step: exactly the chunks in `chunk_ids`.

        Args:
            last: chunks stored in the same step, which saves a small document its `upsert`.
            complete: False where chunks are missing because they failed for good.

        Returns:
            The document as published; when it was published already, as it is.

        Raises:
            StaleWrite: the draft was superseded, or a newer version is published or deleted.
            StoreError: some of `chunk_ids` are not stored; nothing was published.
            InvalidInput: as `upsert`.
        """
        ...

    async def document(self, tenant: str, namespace: str, document_id: str) -> StoredDocument | None:
        """The version that readers see."""
        ...

    async def documents(
        self, tenant: str, namespace: str, limit: int, after: str | None = None
    ) -> list[StoredDocument]:
        """Published documents by id, ascending; `after`: only greater ids."""
        ...

    async def chunks(
        self, tenant: str, namespace: str, document_id: str, limit: int, after: int = -1
    ) -> list[Chunk]:
        """Chunks of the version that readers see, by index; `after`: only greater indexes."""
        ...

    async def namespaces(self, tenant: str) -> list[Namespace]:
        """The tenant's namespaces by name."""
        ...

    async def delete(
        self,
        tenant: str,
        namespace: str,
        document_id: str,
        *,
        version: int | None = None,
    ) -> int:
        """Remove the document: what readers see and every draft. Nothing as old as the newest version seen so far
        can be published later, so that work under way does not bring it back.

        Args:
            version: remove only versions up to this one, whether they were seen yet or not; a newer one stays.

        Returns:
            How many chunks readers no longer see.
        """
        ...

    async def search(self, query: SearchQuery) -> list[Hit]:
        """The nearest published chunks to `query.vector` by cosine similarity, best first, ties by chunk id.

        As many as `limit` if so many match: a filter narrows before the limit is applied. An unknown namespace has no hits.

        Raises:
            ModelMismatch: the vector's dimension is not the namespace's.
        """
        ...

    async def search_text(self, query: SearchQuery) -> list[Hit]:
        """Published chunks that contain words of `query.text`, by BM25 (or the store's nearest to it; above 0),
        best first.

        Any text is a legal query: operators of the store's own language are taken as words. Of a name that the query writes
        in one piece (``pg_dump``), chunks that hold it as such are better than those that hold its words apart.
        Only with the capability `full_text`.
        """
        ...

    async def audit(
        self, tenant: str, namespace: str, document_ids: Sequence[str]
    ) -> list[tuple[str, Audit]]:
        """Compare what the store says of documents with what lies there, each as of one moment; a document that it never heard
        of has an empty `Audit`. Nothing is changed.
        """
        ...

    async def mend(self, tenant: str, namespace: str, document_id: str) -> Audit:
        """Let the store say of a document what lies there, in one step that readers do not notice: how many chunks it has, and
        that it is not `complete` where some, or their vectors, are gone. Then the same version may be published again.
        One without any chunk is nothing that readers see. A document that is whole stays as it is.
        """
        ...

    async def tidy(self, tenant: str, namespace: str, limit: int, *, remove: bool) -> Surplus:
        """Find up to `limit` chunks and vectors of a namespace that should not be there, and wrong counts.

        Args:
            remove: remove what was found, and count anew.
        """
        ...

    async def sweep(self, limit: int) -> int:
        """Remove up to `limit` chunks that no reader sees and no live draft needs (superseded or deleted); how many."""
        ...
