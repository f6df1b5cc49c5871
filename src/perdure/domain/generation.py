"""Which generation of a namespace readers see: a namespace moves to another model by being written again beside itself.

A generation is an ordinary namespace of the vector store under a name that no caller can give. Its documents keep their
turns (version, epoch), so what holds a late writer back in one generation holds it back in the others.
"""

from __future__ import annotations

from msgspec.structs import replace

from perdure.domain.document import StoredDocument
from perdure.domain.errors import Fatal
from perdure.domain.record import Record


class Generation(Record):
    """A namespace as one model embeds it.

    Attributes:
        number: from 1; never given twice.
        embedder: what makes its vectors, as `Settings.embedder` names it.
    """

    number: int
    embedder: str

    def name(self, namespace: str) -> str:
        """The vector store's name for it."""
        return namespace if self.number == 1 else f"{namespace}~{self.number}"


class Lineage(Record):
    """The generations of a namespace, and how far a move from one to another has come.

    Attributes:
        current: what searches read.
        last: the highest number given.
        coming: what is being filled, to become the current one.
        cutting: from here on what is ingested goes into `coming`, too.
        previous: what was current before; kept to go back to.
        dropped: generations that nobody needs any more and whose documents may still be there.
        job, epoch: the run that moves the namespace, or that moved it last; empty: none.
    """

    current: Generation
    last: int = 1
    coming: Generation | None = None
    cutting: bool = False
    previous: Generation | None = None
    dropped: tuple[Generation, ...] = ()
    job: str = ""
    epoch: int = 0

    @property
    def written(self) -> tuple[Generation, ...]:
        """Where a document must be before its ingestion counts as done."""
        coming = (self.coming,) if self.cutting and self.coming is not None else ()
        return (self.current, *coming)

    @property
    def kept(self) -> tuple[Generation, ...]:
        """All generations that are or may become current: a deleted document is in none of them."""
        others = [one for one in (self.coming, self.previous) if one is not None]
        return tuple({one.number: one for one in (self.current, *others)}.values())

    def moved_by(self, job: str) -> bool:
        """Whether the job has done its work, although it may not know."""
        return self.job == job and self.coming is None


def start(lineage: Lineage, embedder: str, job: str, epoch: int) -> Lineage:
    """Let `job` fill a new generation, or go on with one that another job of the same aim left unfinished.

    Raises:
        Fatal: the namespace has this model already.
    """
    if lineage.current.embedder == embedder:
        raise Fatal(f"the namespace is embedded by {embedder!r} already; there is nothing to do")
    if (
        lineage.coming is not None
        and lineage.coming.embedder == embedder
        and lineage.coming != lineage.previous
    ):
        return replace(lineage, job=job, epoch=epoch, cutting=False)
    number = lineage.last + 1
    return replace(
        lineage,
        coming=Generation(number=number, embedder=embedder),
        last=number,
        cutting=False,
        dropped=lineage.dropped + _abandoned(lineage),
        job=job,
        epoch=epoch,
    )


def start_back(lineage: Lineage, job: str, epoch: int) -> Lineage:
    """Let `job` bring the previous generation up to date, to become the current one again.

    Raises:
        Fatal: there is none.
    """
    if lineage.previous is None:
        raise Fatal("no generation before this one is kept; reindex to the model that you want")
    dropped = lineage.dropped + _abandoned(lineage)
    return replace(lineage, coming=lineage.previous, cutting=False, dropped=dropped, job=job, epoch=epoch)


def begin_cut(lineage: Lineage, job: str, epoch: int) -> Lineage:
    """From here on, ingestions write to both generations.

    Raises:
        Fatal: another run took over.
    """
    _check_mover(lineage, job, epoch)
    return replace(lineage, cutting=True)


def cut(lineage: Lineage, job: str, epoch: int) -> Lineage:
    """Let readers see the generation that was filled; the one before is kept, one before that is not.

    Raises:
        Fatal: another run took over.
    """
    if lineage.moved_by(job):
        return lineage
    coming = _check_mover(lineage, job, epoch)
    if not lineage.cutting:
        raise Fatal("the reindexing was stopped before it was done; start it again")
    gone = lineage.previous
    dropped = (gone,) if gone is not None and gone != coming else ()
    return replace(
        lineage,
        current=coming,
        coming=None,
        cutting=False,
        previous=lineage.current,
        dropped=lineage.dropped + dropped,
    )


def stop(lineage: Lineage, job: str) -> Lineage:
    """The job that moved the namespace has ended without a cut; what it filled stays for the next one."""
    if lineage.job != job or lineage.coming is None:
        return lineage
    return replace(lineage, cutting=False, job="")


def drop_previous(lineage: Lineage) -> Lineage:
    """Keep nothing to go back to.

    Raises:
        Fatal: it is just being made the current one.
    """
    if lineage.previous is None:
        return lineage
    if lineage.previous == lineage.coming:
        raise Fatal("the old generation is being made the current one again; cancel that first")
    return replace(lineage, previous=None, dropped=(*lineage.dropped, lineage.previous))


def cleared(lineage: Lineage, gone: Generation) -> Lineage:
    """Nothing is left of a dropped generation."""
    return replace(lineage, dropped=tuple(one for one in lineage.dropped if one != gone))


def has_copy(source: StoredDocument, copy: StoredDocument | None) -> bool:
    """Whether nothing is to be done for a document in another generation; a copy has its source's turn."""
    if copy is None or copy.document.version < source.document.version:
        return False
    return copy.document.version > source.document.version or copy.complete or copy.epoch >= source.epoch


def _abandoned(lineage: Lineage) -> tuple[Generation, ...]:
    coming = lineage.coming
    return (coming,) if coming is not None and coming != lineage.previous else ()


def _check_mover(lineage: Lineage, job: str, epoch: int) -> Generation:
    if (lineage.job, lineage.epoch) != (job, epoch) or lineage.coming is None:
        raise Fatal("another run has taken over, or this job was cancelled; start the reindexing again")
    return lineage.coming
