"""What happened to a document, as marks that are only ever added: whoever reads them in whatever order comes to the same end.

Pinecone has no compare-and-set, so a record that two processes write would keep what the later one knew. Each event is therefore
a record of its own, and all that matters is in its id:

- ``b/VERSION/EPOCH/NUMBER/EDITION``: a draft was begun. NUMBER orders those of one run; an empty EDITION has nothing to write.
- ``p/VERSION/EPOCH/EDITION/COMPLETE``: it was published; the record holds the head.
- ``d/VERSION``: all versions up to this one were deleted.
"""

from __future__ import annotations

from collections.abc import Iterable

from perdure.domain.document import Draft
from perdure.domain.drafts import Standing, Turn, turn
from perdure.domain.record import Record
from perdure.vectors.pinecone.names import edition_kind


class Marks(Record):
    """What the marks of a document come to.

    Attributes:
        draft: the edition that is being written; empty: none.
        head: the mark of the publication that readers see; empty: they see none.
        published: its edition.
        number: of the newest begun.
        spent: marks that the others outdo.
        all: every mark.
    """

    standing: Standing
    draft: str
    head: str
    published: str
    number: int
    spent: frozenset[str]
    all: frozenset[str]

    @property
    def editions(self) -> tuple[str, ...]:
        """Those whose chunks somebody needs."""
        return tuple(edition for edition in (self.draft, self.published) if edition)


def read(names: Iterable[str]) -> Marks:
    """Put the marks of one document together."""
    every = frozenset(names)
    told = [(name, name.split("/")) for name in every]
    deleted = max((int(parts[1]) for _, parts in told if parts[0] == "d"), default=None)
    living = [(name, parts) for name, parts in told if deleted is None or int(parts[1]) > deleted]
    prints = [(name, parts) for name, parts in living if parts[0] == "p"]
    head, head_parts = max(prints, key=lambda one: (_turn(one[1]), one[0]), default=("", []))
    shown = _turn(head_parts) if head else None
    begun = [
        (name, parts) for name, parts in living if parts[0] == "b" and (not shown or _turn(parts) > shown)
    ]
    newest, newest_parts = max(
        begun, key=lambda one: (_turn(one[1]), int(one[1][3]), one[0]), default=("", [])
    )
    standing = Standing(
        begun=_turn(newest_parts) if newest else shown,
        published=shown,
        complete=not head or head_parts[4] == "1",
        deleted=deleted,
    )
    return Marks(
        standing=standing,
        draft=newest_parts[4] if newest else "",
        head=head,
        published=head_parts[3] if head else "",
        number=int(newest_parts[3]) if newest else 0,
        spent=every - {newest, head, f"d/{deleted}"},
        all=every,
    )


def began(draft: Draft, edition: str, number: int) -> str:
    """The mark of a draft that was begun."""
    version, epoch = turn(draft)
    return f"b/{version}/{epoch}/{number}/{edition}"


def published(draft: Draft, edition: str, *, complete: bool) -> str:
    """The mark of a publication."""
    version, epoch = turn(draft)
    return f"p/{version}/{epoch}/{edition}/{int(complete)}"


def amended(mark: str, *, there: bool) -> str:
    """The mark in place of that of a publication which lost chunks, or all of them: then a begun draft without an edition."""
    _, version, epoch, edition, _ = mark.split("/")
    return f"p/{version}/{epoch}/{edition}/0" if there else f"b/{version}/{epoch}/0/"


def outdone(names: Iterable[str], mark: str) -> list[str]:
    """Those of publications that `mark` takes the place of."""
    last = _turn(mark.split("/"))
    return [one for one in names if one.startswith("p/") and one != mark and _turn(one.split("/")) <= last]


def deleted(version: int) -> str:
    """The mark of a deletion."""
    return f"d/{version}"


def new_edition(draft: Draft, number: int) -> str:
    """Name the edition that a draft begins."""
    version, epoch = turn(draft)
    return f"{version}.{epoch}.{number}.{edition_kind(draft)}"


def _turn(parts: list[str]) -> Turn:
    return (int(parts[1]), int(parts[2]))
