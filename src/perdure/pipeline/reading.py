"""One pass over a source, in threads: opened, hashed, parsed and cut into chunks, a window at a time."""

from __future__ import annotations

import hashlib
import io
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import BinaryIO, Final, Protocol

from perdure.domain.document import Chunk, Document, chunk_maker
from perdure.domain.errors import DocumentEmpty, DocumentError, DocumentUnreadable, RetryAfter
from perdure.domain.record import Record
from perdure.pipeline.source import Source
from perdure.ports.parser import Chunker, Parser

SMALL: Final = 1_000_000
"""Bytes up to which a source is read whole: one trip to a thread opens it, hashes it and cuts the first window."""

_HEAD: Final = 4096
_BLOCK: Final = 1 << 20
# Failures of the file system that stay until somebody mends them. Any other (a network drive that does not
# answer, too many open files) may pass, so it goes out as it is and the job is tried again.
_LASTING: Final = {
    FileNotFoundError: "there is no such file any more; put it back and retry the job, or ingest it from where it is",
    NotADirectoryError: "a part of its path is no folder; ingest it from where it is",
    IsADirectoryError: "this is a folder; ingest the files in it",
    PermissionError: "the worker may not read this file; give its user read permission and retry the job",
}


class Parsers(Protocol):
    """What the pipeline needs of a registry of parsers."""

    def choose(self, name: str, media_type: str | None, head: bytes) -> Parser:
        """Return the parser for a file of this name and media type that begins with `head`."""
        ...


class Window(Record):
    """Some chunks that follow one another, at least one.

    Attributes:
        last: no more will follow.
        fraction: how much of the source's bytes was read; None where all was read at the beginning.
    """

    chunks: list[Chunk]
    last: bool
    fraction: float | None


class Opened(Record):
    """A source whose bytes are known.

    Attributes:
        strategy: names parser, encoding and chunker: with the bytes, all that decides what the chunks are.
        first: the first window of a small source.
    """

    document: Document
    strategy: str
    first: Window | None


def glance(source: Source, parsers: Parsers, chunker: Chunker) -> tuple[str, str] | None:
    """Content hash and strategy of a small source, as `Reader.open` tells them; None where it is large.

    Raises:
        DocumentError, OSError: as `Reader.open`.
    """
    with source.open() as stream:
        head = stream.read(SMALL + 1)
    if len(head) > SMALL:
        return None
    parser = parsers.choose(source.name, source.media_type, head[:_HEAD])
    return hashlib.sha256(head).hexdigest(), _strategy(parser, source, chunker)


class Reader:
    """`open` first, then `window` until the last one; `close` at any time: it waits for a call in another thread.

    Args:
        describe: makes the document of its content hash.
        size: chunks in a window.
    """

    def __init__(
        self,
        source: Source,
        describe: Callable[[str], Document],
        parsers: Parsers,
        chunker: Chunker,
        size: int,
    ) -> None:
        self.closed = False
        self._source = source
        self._describe = describe
        self._parsers = parsers
        self._chunker = chunker
        self._size = size
        self._lock = threading.Lock()
        self._stream: BinaryIO = io.BytesIO()
        self._bytes = 0
        self._chunks: Iterator[Chunk] = iter(())
        self._ahead: list[Chunk] = []

    def open(self) -> Opened:
        """Open and hash the source; cut the first window of a small one, whose file is closed again at once.

        Raises:
            DocumentError: it cannot be read.
            OSError: it cannot be read now.
        """
        with self._lock, self._naming():
            self._stream = self._source.open()
            head = self._stream.read(SMALL + 1)
            small = len(head) <= SMALL
            if small:
                self._stream.close()
                self._stream, self.closed = io.BytesIO(head), True
            parser = self._parsers.choose(self._source.name, self._source.media_type, head[:_HEAD])
            document = self._describe(self._digest())
            strategy = _strategy(parser, self._source, self._chunker)
            self._chunks = self._cut(parser, document, strategy)
            return Opened(document=document, strategy=strategy, first=self._gather() if small else None)

    def window(self) -> Window:
        """Cut the next window.

        Raises:
            DocumentError: there is no text, or it cannot be read.
            RetryAfter: the source changed while it was read.
            OSError: it cannot be read now.
        """
        with self._lock, self._naming():
            return self._gather()

    def close(self) -> None:
        """Free the file."""
        with self._lock:
            self._chunks = iter(())  # lets go of the parser, whose process ends
            self._stream.close()
            self.closed = True

    def _gather(self) -> Window:
        chunks = [*self._ahead, *islice(self._chunks, self._size - len(self._ahead))]
        self._ahead = list(islice(self._chunks, 1))
        position = self._stream.tell()
        fraction = position / self._bytes if position < self._bytes else None
        return Window(chunks=chunks, last=not self._ahead, fraction=fraction)

    def _cut(self, parser: Parser, document: Document, strategy: str) -> Iterator[Chunk]:
        make, index = chunk_maker(document, strategy), 0
        for section in parser.parse(self._stream, self._source.encoding):
            for offset, text in self._chunker.split(section.text, section.metadata):
                yield make(index, text, section.start + offset, section.metadata)
                index += 1
        if index == 0:
            raise DocumentEmpty("there is no text in it; nothing to search for")
        # What is small is in memory. A file may have been written to meanwhile: its hash would not describe the chunks.
        if not self.closed and self._digest() != document.content_hash:
            raise RetryAfter(5, f"{self._source.name} changed while it was read", counts=True)

    def _digest(self) -> str:
        """Hash the whole stream, and go back to its beginning."""
        self._stream.seek(0)
        digest = hashlib.sha256()
        while block := self._stream.read(_BLOCK):
            digest.update(block)
        self._bytes = self._stream.tell()
        self._stream.seek(0)
        return digest.hexdigest()

    @contextmanager
    def _naming(self) -> Iterator[None]:
        """Let every error say which document it is about."""
        try:
            yield
        except DocumentError as error:
            raise type(error)(f"{self._source.name}: {error}") from error
        except tuple(_LASTING) as error:
            path = error.filename or self._source.name
            raise DocumentUnreadable(f"{path}: {_LASTING[type(error)]}") from error


def _strategy(parser: Parser, source: Source, chunker: Chunker) -> str:
    encoding = "" if source.encoding is None else f"[{source.encoding}]"
    return f"{parser.name}{encoding}/{chunker.strategy}"
