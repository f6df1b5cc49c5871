"""The process that bears parsing processes: it loads each library once, and gives every document a fork of its own.

A fork takes some milliseconds where an interpreter with its libraries would take some hundred; and what a hostile
document did to its process is gone with it. This process has one thread and reads no document itself.
"""

from __future__ import annotations

import gc
import os
import select
import signal
import socket
import struct
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from importlib import import_module
from typing import Any, BinaryIO, Final

from perdure.domain.errors import DocumentError, DocumentUnreadable, InvalidInput
from perdure.domain.record import Record
from perdure.parsers.confine import confine
from perdure.parsers.frames import Finished, Refused, Request, Sections, decode_request, write_frame
from perdure.ports.parser import Parser, Section

LENGTH: Final = struct.Struct(">I")
FILES: Final = 3
"""What comes with a request: the document, where the frames go, where the exit status goes."""

_BATCH: Final = 64_000  # characters that are sent together
_BATCH_SECONDS: Final = 1.0


class _Child(Record):
    pid: int
    alive: int  # hangs up when the child is gone
    status: int  # hangs up when nobody waits for the child any more


class Nursery:
    """Serves requests until the other side hangs up; then waits for the children that are left."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._open = True
        self._children: dict[int, _Child] = {}
        self._poll = select.poll()
        self._poll.register(control, select.POLLIN)

    def run(self) -> None:
        """Bear and bury."""
        while self._open or self._children:
            ready = {descriptor for descriptor, _ in self._poll.poll()}
            # Burials first: a new child may get the descriptors that an old one had.
            for descriptor in ready & self._children.keys():
                if child := self._children.get(descriptor):
                    self._bury(child)
            if self._control.fileno() in ready:
                self._serve()

    def _serve(self) -> None:
        head, files, _, _ = socket.recv_fds(self._control, LENGTH.size, FILES)
        if not head:
            self._poll.unregister(self._control)
            self._open = False
            return
        (length,) = LENGTH.unpack(head)
        request = decode_request(self._control.recv(length, socket.MSG_WAITALL))
        _preload(request.parser)
        if len(files) < FILES or (born := _fork()) is None:  # who asked hears that it was lost
            for descriptor in files:
                os.close(descriptor)
            return
        document, output, status = files
        pid, alive, held = born
        if pid == 0:
            for descriptor in (self._control.fileno(), alive, status, *self._children):
                os.close(descriptor)  # other documents are none of its business
            _live(request, document, output)
        for descriptor in (document, output, held):
            os.close(descriptor)
        child = _Child(pid=pid, alive=alive, status=status)
        for descriptor in (alive, status):
            self._children[descriptor] = child
            self._poll.register(descriptor, 0)

    def _bury(self, child: _Child) -> None:
        """Make sure that it is gone, and tell how it went to whoever still wants to know."""
        os.kill(child.pid, signal.SIGKILL)  # its number is its own until it is waited for
        _, status = os.waitpid(child.pid, 0)
        with suppress(BrokenPipeError):
            os.write(child.status, LENGTH.pack(status))
        for descriptor in (child.alive, child.status):
            del self._children[descriptor]
            self._poll.unregister(descriptor)
            os.close(descriptor)


def _fork() -> tuple[int, int, int] | None:
    """A process (0: this is it), and a pipe that hangs up with it; None: there is no room for more."""
    try:
        alive, held = os.pipe()
    except OSError:
        return None
    try:
        return os.fork(), alive, held
    except OSError:
        os.close(alive)
        os.close(held)
        return None


def load(name: str) -> Any:
    """What ``package.module:Class`` names."""
    module, _, attribute = name.partition(":")
    return getattr(import_module(module), attribute)


def _preload(parser: str) -> None:
    """Import a parser and its libraries, so that its children need not."""
    with suppress(Exception):  # the child meets it again, and says what is missing
        for library in getattr(load(parser), "libraries", ()):
            import_module(library)
    gc.freeze()


def _live(request: Request, document: int, output: int) -> None:
    """Be the child: parse one document, and end."""
    code = 1
    try:
        confine(request.memory, request.cpu)
        os.lseek(document, 0, os.SEEK_SET)
        with os.fdopen(document, "rb") as stream, os.fdopen(output, "wb") as told:
            parser = load(request.parser)()
            write_frame(
                told, Sections(sections=[])
            )  # from here on the end of this process is the document's doing
            _parse(parser, stream, request, told)
        code = 0
    finally:
        os._exit(code)


def _parse(parser: Parser, stream: BinaryIO, request: Request, told: BinaryIO) -> None:
    try:
        for batch in _batches(parser.parse(stream, request.encoding)):
            write_frame(told, Sections(sections=batch))
        write_frame(told, Finished())
    except (DocumentError, InvalidInput) as error:
        write_frame(told, Refused(error=type(error).__name__, message=str(error)))
    except MemoryError:
        message = f"its parser needs more than {request.memory // 1_000_000:,} MB; split the document"
        write_frame(told, Refused(error=DocumentUnreadable.__name__, message=message))
    except Exception as error:  # noqa: BLE001 - libraries raise anything at all when content is damaged
        what = f"{type(error).__name__}: {error}"[:500]
        message = f"it is damaged, or not what its name says ({what}); open it, save it anew, and ingest that"
        write_frame(told, Refused(error=DocumentUnreadable.__name__, message=message))


def _batches(sections: Iterable[Section]) -> Iterator[list[Section]]:
    """Gather small sections, but not for long: who listens takes silence for a hang."""
    batch, size, begun = list[Section](), 0, time.monotonic()
    for section in sections:
        batch.append(section)
        size += len(section.text)
        if size > _BATCH or time.monotonic() - begun > _BATCH_SECONDS:
            yield batch
            batch, size, begun = [], 0, time.monotonic()
    yield batch


def main(control: int) -> None:
    """Run the nursery at the other end of a socket."""
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    Nursery(socket.socket(fileno=control)).run()
