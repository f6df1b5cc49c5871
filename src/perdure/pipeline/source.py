"""Where a document's bytes come from."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import BinaryIO

from perdure.domain.record import Record


class Source(Record):
    """A document's bytes, which can be opened as often as needed.

    Attributes:
        name: the file's name; its ending decides the parser where the media type does not, and errors name it.
        open: gives the bytes from their beginning, seekable; called in a thread; `OSError` where it cannot.
        media_type: as the sender gave it.
        encoding: of the text; None: by byte order mark, else as the document says, else UTF-8.
    """

    name: str
    open: Callable[[], BinaryIO]
    media_type: str | None = None
    encoding: str | None = None


def path_source(path: str | Path, *, media_type: str | None = None, encoding: str | None = None) -> Source:
    """Read a file, which is opened only when its turn comes."""
    return Source(name=str(path), open=partial(_open, path), media_type=media_type, encoding=encoding)


def bytes_source(
    name: str, data: bytes, *, media_type: str | None = None, encoding: str | None = None
) -> Source:
    """Read bytes that are in memory."""
    return Source(name=name, open=partial(io.BytesIO, data), media_type=media_type, encoding=encoding)


def _open(path: str | Path) -> BinaryIO:
    return open(path, "rb")  # noqa: PTH123 - a `Path` takes twice as long
