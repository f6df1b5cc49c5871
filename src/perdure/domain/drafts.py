"""Which draft of a document may still be written: decided here once, for every vector store.

A draft's turn is its (version, epoch). The newest turn that was begun holds the document; every write of an older one
is refused, so that a worker that was away for an hour changes nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TypeAlias

from perdure.domain.document import Draft, StoredDocument
from perdure.domain.errors import ModelMismatch, StaleWrite, StoreError
from perdure.domain.record import Record

Turn: TypeAlias = tuple[int, int]
"""(version, epoch)"""

Model: TypeAlias = tuple[str, int]
"""(name, dimension)"""


class Standing(Record):
    """How far a document has come, as its store knows it.

    Attributes:
        begun: the newest turn that was begun; None before the first.
        published: the turn of what readers see; None where they see nothing.
        complete: whether what readers see has all its chunks. If not, a newer run may publish the version again.
        deleted: no version up to this one may be written any more; None if none was deleted.
    """

    begun: Turn | None = None
    published: Turn | None = None
    complete: bool = True
    deleted: int | None = None


UNKNOWN = Standing()
"""Of a document that was never heard of."""


def turn(draft: Draft) -> Turn:
    """What orders this draft among those of its document."""
    return (draft.document.version, draft.epoch)


def check_begin(draft: Draft, standing: Standing) -> None:
    """Whether the draft may be begun, or taken up again.

    Raises:
        StaleWrite: a newer one was begun, or its version was deleted.
    """
    _check_deleted(draft, standing)
    if standing.begun is not None and standing.begun > turn(draft):
        raise _superseded(draft, standing.begun)


def check_write(draft: Draft, standing: Standing) -> None:
    """Whether chunks of the draft may be stored, and the draft be published.

    Raises:
        StaleWrite: another one holds the document, or its version was deleted.
    """
    _check_deleted(draft, standing)
    if standing.begun is None or standing.begun < turn(draft):
        raise StaleWrite(f"{_name(draft)} was never begun; call begin first")
    if standing.begun > turn(draft):
        raise _superseded(draft, standing.begun)


def check_model(draft: Draft, held: Model | None) -> None:
    """Whether the draft's vectors may stand beside those that readers see in its namespace; None: there are none.

    Raises:
        ModelMismatch: they come from another model, or have another dimension.
    """
    if held not in (None, (draft.model, draft.dimension)):
        model, dimension = held
        raise ModelMismatch(
            f"namespace {draft.document.namespace!r} holds vectors of {model!r} ({dimension} numbers), the draft's are of "
            f"{draft.model!r} ({draft.dimension}); use the same embedder again, or another namespace"
        )


class Matching:
    """Compares what readers shall see with what is stored, in one pass over both: a document may have millions of chunks.

    Args:
        chunk_ids: what they shall see.
        given: what is about to be stored, whatever of it is stored already.

    Attributes:
        shown: those of `given` that they shall see.
        count: how many of `chunk_ids` were found so far, each once.
    """

    def __init__(self, chunk_ids: Iterable[str], given: Collection[str]) -> None:
        self.shown: set[str] = set()
        self._left: list[str] = []
        for chunk_id in chunk_ids:
            if chunk_id in given:
                self.shown.add(chunk_id)
            else:
                self._left.append(chunk_id)
        self._left.sort(reverse=True)
        self.count = len(self.shown)
        self._absent = 0
        self._first_absent = ""

    def shows(self, stored: str) -> bool:
        """Hear of a stored chunk, ids ascending; whether readers shall see it as it is."""
        while self._left and self._left[-1] < stored:
            self._miss(self._left.pop())
        found = False
        while self._left and self._left[-1] == stored:
            found = bool(self._left.pop())
        self.count += found
        return found

    def end(self, draft: Draft) -> None:
        """All stored chunks were heard of.

        Raises:
            StoreError: some of `chunk_ids` are not among them.
        """
        while self._left:
            self._miss(self._left.pop())
        if self._absent:
            raise StoreError(
                f"{self._absent} of {self._absent + self.count} chunks of {_name(draft)} are not stored, "
                f"{self._first_absent} among them; nothing was published: upsert them and publish again"
            )

    def _miss(self, chunk_id: str) -> None:
        self._absent += 1
        self._first_absent = self._first_absent or chunk_id


def check_stored(draft: Draft, chunk_ids: Iterable[str], stored: Collection[str]) -> None:
    """Whether everything that is to be published is there.

    Raises:
        StoreError: some of `chunk_ids` are not `stored`.
    """
    Matching(chunk_ids, stored).end(draft)


def is_published(draft: Draft, standing: Standing) -> bool:
    """Whether what the draft would publish is what readers see already, by this run or an earlier one."""
    if standing.published is None or standing.published[0] != draft.document.version:
        return False
    return standing.complete or standing.published >= turn(draft)


def published_itself(draft: Draft, standing: Standing) -> bool:
    """Whether this very run published what readers see: its writes, said again, count as done."""
    return standing.published == turn(draft)


def shows_already(published: StoredDocument, draft: Draft) -> bool:
    """Whether readers see already what the draft would show them."""
    there, wanted = published.document, draft.document
    return (
        published.complete
        and (there.content_hash, there.source_metadata) == (wanted.content_hash, wanted.source_metadata)
        and (published.model, published.dimension, published.strategy)
        == (draft.model, draft.dimension, draft.strategy)
    )


def newest_version(standing: Standing) -> int | None:
    """The newest version that the store ever heard of: what a deletion must outlive."""
    heard = [known[0] for known in (standing.begun, standing.published) if known is not None]
    if standing.deleted is not None:
        heard.append(standing.deleted)
    return max(heard, default=None)


def _check_deleted(draft: Draft, standing: Standing) -> None:
    if standing.deleted is not None and draft.document.version <= standing.deleted:
        raise StaleWrite(
            f"{_name(draft)} was deleted (with all versions up to {standing.deleted}); "
            "submit the document again to bring it back under a newer version"
        )


def _superseded(draft: Draft, newer: Turn) -> StaleWrite:
    return StaleWrite(f"{_name(draft)} was superseded by version {newer[0]} of run {newer[1]}")


def _name(draft: Draft) -> str:
    return f"document {draft.document.id!r} version {draft.document.version} of run {draft.epoch}"
