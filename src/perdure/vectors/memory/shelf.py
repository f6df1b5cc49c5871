"""What a namespace holds: its documents, each with a draft and what readers see."""

from __future__ import annotations

from msgspec.structs import replace

from perdure.domain.document import Draft, EmbeddedChunk, StoredDocument
from perdure.domain.drafts import UNKNOWN, Standing, Turn
from perdure.vectors.memory.index import Index


class Edition:
    """One version of a document with its chunks: a draft, or what readers see."""

    def __init__(self, draft: Draft) -> None:
        self.version = draft.document.version
        self.model = (draft.model, draft.dimension)
        self.chunks: dict[str, EmbeddedChunk] = {}
        self.stored: StoredDocument | None = None
        """Set once it is published."""

    def serves(self, draft: Draft) -> bool:
        """Whether its chunks may stand for chunks of `draft`."""
        return self.version == draft.document.version and self.model == (draft.model, draft.dimension)


class Entry:
    """One document."""

    def __init__(self) -> None:
        self.standing: Standing = UNKNOWN
        self.draft: Edition | None = None
        self.published: Edition | None = None

    def begin(self, turn: Turn) -> None:
        """Let `turn` hold the document from now on."""
        self.standing = replace(self.standing, begun=turn)

    def publish(self, edition: Edition, turn: Turn) -> None:
        """Let readers see `edition`."""
        complete = edition.stored is not None and edition.stored.complete
        self.standing = replace(self.standing, published=turn, complete=complete)
        self.published, self.draft = edition, None

    def delete(self, version: int) -> int:
        """Forget all versions up to `version` for good; how many chunks readers lose."""
        self.standing = replace(self.standing, deleted=max(version, self.standing.deleted or version))
        if self.draft is not None and self.draft.version <= version:
            self.draft = None
        if self.published is None or self.published.version > version:
            return 0
        lost = len(self.published.chunks)
        self.standing = replace(self.standing, published=None)
        self.published = None
        return lost


class Shelf:
    """All documents of one namespace of one tenant."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}
        self._index: Index | None = None

    def entry(self, document_id: str) -> Entry:
        """The document's entry; a blank one where it was never heard of."""
        return self.entries.get(document_id) or Entry()

    def published(self) -> list[Edition]:
        """What readers see, by document id."""
        entries = (self.entries[document_id] for document_id in sorted(self.entries))
        return [entry.published for entry in entries if entry.published is not None]

    @property
    def model(self) -> tuple[str, int] | None:
        """Model and dimension of all vectors that readers see; None where they see none."""
        return next((entry.published.model for entry in self.entries.values() if entry.published), None)

    @property
    def index(self) -> Index:
        """What readers see, ready to be searched."""
        if self._index is None:
            self._index = Index(self.published())
        return self._index

    def changed(self) -> None:
        """Readers see something else than before."""
        self._index = None
