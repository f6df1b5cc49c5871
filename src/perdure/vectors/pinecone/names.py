"""Where things lie in an index: its namespaces, and the ids of the records in them.

``perdure/TENANT/NAMESPACE`` holds chunks, ``perdure/TENANT`` what is known of the tenant's documents, ``perdure`` what is to
be swept. Ids are ASCII, at most 512 characters, and are listed in the order of their bytes.
"""

from __future__ import annotations

import hashlib
from typing import Final, NamedTuple
from urllib.parse import quote

from perdure.domain.document import Document, Draft
from perdure.domain.record import Json
from perdure.vectors.pinecone.values import encode

GARBAGE: Final = "perdure"
_LONGEST: Final = 300
"""Hexadecimal digits of a document's id; of a longer one the first half counts, and a hash of all."""


def control_of(tenant: str) -> str:
    """The Pinecone namespace of what is known of the tenant's documents."""
    return _short(f"perdure/{_quoted(tenant)}")


def chunks_of(tenant: str, namespace: str) -> str:
    """The Pinecone namespace of the chunks."""
    return _short(f"perdure/{_quoted(tenant)}/{_quoted(namespace)}")


def _quoted(name: str) -> str:
    return quote(name, safe="", errors="surrogatepass")


def _short(name: str) -> str:
    return name if len(name) <= 512 else f"{name[:400]}~{digest(name, 64)}"


def digest(text: str, length: int) -> str:
    """Stand for a text of any length."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:length]


def space_key(namespace: str) -> str:
    """Stand for a namespace in ids."""
    return digest(namespace, 20)


def document_key(document_id: str) -> str:
    """Stand for a document in ids, in the order of the documents' ids (of long ones, of their first 116 bytes)."""
    written = document_id.encode("utf-8", "surrogatepass").hex()
    return written if len(written) <= _LONGEST else f"{written[:232]}~{digest(document_id, 64)}"


class Place(NamedTuple):
    """One document."""

    tenant: str
    namespace: str
    id: str

    @property
    def control(self) -> str:
        """The Pinecone namespace of its marks, its head and its long texts."""
        return control_of(self.tenant)

    @property
    def space(self) -> str:
        """The Pinecone namespace of its chunks."""
        return chunks_of(self.tenant, self.namespace)

    @property
    def marks(self) -> str:
        """What the ids of its marks begin with."""
        return marks_of(self.namespace, document_key(self.id))

    @property
    def head(self) -> str:
        """The id of the record that says what readers see."""
        return heads_of(self.namespace) + document_key(self.id)

    def chunks(self, edition: str) -> str:
        """What the ids of an edition's chunks begin with."""
        return f"{document_key(self.id)}/{edition}/"


def place_of(document: Document) -> Place:
    """Where a document version belongs."""
    return Place(document.tenant, document.namespace, document.id)


def marks_of(namespace: str, key: str) -> str:
    """What the ids of the marks of the document with this key begin with."""
    return f"m/{space_key(namespace)}/{key}/"


def heads_of(namespace: str) -> str:
    """What the ids of a namespace's heads begin with."""
    return f"h/{space_key(namespace)}/"


def space_of(namespace: str) -> str:
    """The id of the record that says which model a namespace belongs to."""
    return f"n/{space_key(namespace)}"


class ChunkName(NamedTuple):
    """What the id of a chunk's record tells."""

    document: str
    edition: str
    position: int
    chunk_id: str

    @property
    def record(self) -> str:
        """The id itself."""
        return f"{self.document}/{self.edition}/{self.position:08}/{self.chunk_id}"

    def pieces(self, namespace: str, number: int) -> list[str]:
        """The ids of the pieces that a long text lies in."""
        prefix = f"t/{space_key(namespace)}/{self.document}/{self.edition}/{self.chunk_id}"
        return [f"{prefix}/{piece}" for piece in range(number)]


def parse_chunk(record_id: str) -> ChunkName:
    """Read the id of a chunk's record."""
    document, edition, position, chunk_id = record_id.split("/", 3)
    return ChunkName(document, edition, int(position), chunk_id)


def edition_kind(draft: Draft) -> str:
    """What chunks must have in common to belong to one edition: they carry the metadata of their document, too."""
    facts: list[Json] = [draft.model, draft.dimension, draft.document.source_metadata]
    return digest(encode(facts), 12)


def serves(edition: str, draft: Draft) -> bool:
    """Whether the chunks of an edition may stand for chunks of the draft."""
    return edition.startswith(f"{draft.document.version}.") and edition.endswith(f".{edition_kind(draft)}")
