"""A parser in a process of its own, which may crash, hang or swell without harm to this one."""

from __future__ import annotations

import atexit
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import copyfileobj
from threading import Lock
from typing import BinaryIO, Final

import msgspec

from perdure.domain.errors import (
    DocumentEmpty,
    DocumentUnreadable,
    InvalidInput,
    PerdureError,
    RetryAfter,
    UnsupportedFormat,
)
from perdure.domain.record import Record
from perdure.parsers.frames import Finished, Frame, Refused, Request, Sections, encode_request, read_frames
from perdure.parsers.nursery import LENGTH
from perdure.ports.parser import Parser, Section

# What the process needs of the environment: it has no use for the passwords in it.
_ENVIRON: Final = (
    "PATH",
    "HOME",
    "DOCLING_ARTIFACTS_PATH",
    "LANG",
    "LC_ALL",
    "LC_CTYPE",
    "TMPDIR",
    "LD_LIBRARY_PATH",
    "DYLD_LIBRARY_PATH",
)
# Threads of libraries that are loaded before a fork would be missing after it.
_ONE_THREAD: Final = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
_BOOT: Final = "import sys; sys.path[:] = {path!r}; from perdure.parsers.nursery import main; main({control})"

_ERRORS: Final[dict[str, type[PerdureError]]] = {
    error.__name__: error for error in (DocumentEmpty, DocumentUnreadable, InvalidInput, UnsupportedFormat)
}
_ATTEMPTS: Final = 3
_BURIAL_SECONDS: Final = 60.0
"""So late the nursery may be: it loads large libraries now and then. A process that hung up and lives on is no reason to
wait for ever."""


class Limits(Record):
    """What one document may take.

    Attributes:
        memory: bytes of address space of its process.
        silence: seconds from one piece of text to the next. Time in which nobody asks for the next does not count.
        cpu: seconds of processor time, all in all.
    """

    memory: int = 1_000_000_000
    silence: float = 120.0
    cpu: int = 1200


class Sandboxed:
    """Lets a parser, made without arguments, work in a process that is forked for each document.

    Without `os.fork` (Windows) it works in this process.
    """

    def __init__(self, parser: Parser, limits: Limits) -> None:
        self.name = parser.name
        self.suffixes = parser.suffixes
        self.media_types = parser.media_types
        self.signature = parser.signature
        self._parser = parser
        self._limits = limits

    def parse(self, stream: BinaryIO, encoding: str | None) -> Iterator[Section]:
        """Yield what the parser yields; the process ends with the iterator.

        Raises:
            DocumentError: also where the process crashed, or came to a limit.
            RetryAfter: the process was lost through no fault of the document.
        """
        if not hasattr(os, "fork"):
            yield from self._parser.parse(stream, encoding)
            return
        kind = type(self._parser)
        request = Request(
            parser=f"{kind.__module__}:{kind.__qualname__}",
            encoding=encoding,
            memory=self._limits.memory,
            cpu=self._limits.cpu,
        )
        with _descriptor(stream) as document:
            for attempt in range(1, _ATTEMPTS + 1):
                with nursery.child(request, document) as (output, status):
                    output.settimeout(self._limits.silence)
                    with output.makefile("rb") as told:
                        frames = read_frames(told)
                        try:
                            self._next(frames, status)  # it has taken the document up
                        except (
                            RetryAfter
                        ):  # it was lost before it did: with the nursery, or for want of memory
                            if attempt == _ATTEMPTS:
                                raise
                            continue
                        while not isinstance(frame := self._next(frames, status), Finished):
                            yield from frame.sections
                        return

    def _next(self, frames: Iterator[Frame], status: BinaryIO) -> Sections | Finished:
        try:
            frame = next(frames, None)
        except TimeoutError:
            raise DocumentUnreadable(
                f"its parser gave nothing for {self._limits.silence:g} seconds and was stopped; "
                "split the document, or save it anew"
            ) from None
        except (msgspec.DecodeError, ValueError, OSError):  # what it sends makes no sense, or it hung up
            frame = None
        if isinstance(frame, Refused):
            raise _ERRORS.get(frame.error, DocumentUnreadable)(frame.message)
        if frame is None:
            raise self._obituary(status)
        return frame

    def _obituary(self, status: BinaryIO) -> Exception:
        """Why a process ended before it was finished."""
        poll = select.poll()
        poll.register(status, select.POLLIN)
        told = status.read(LENGTH.size) if poll.poll(_BURIAL_SECONDS * 1000) else b""
        if len(told) < LENGTH.size:
            return RetryAfter(5, "the parsing process was lost", counts=True)
        code = os.waitstatus_to_exitcode(*LENGTH.unpack(told))
        if -code == signal.SIGXCPU:
            return DocumentUnreadable(
                f"its parser took more than {self._limits.cpu:,} seconds of processor time; split the document"
            )
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return DocumentUnreadable(
            f"its parser crashed ({how}): the document is damaged, or needs more than "
            f"{self._limits.memory // 1_000_000:,} MB; save it anew, or split it"
        )


@contextmanager
def _descriptor(stream: BinaryIO) -> Iterator[int]:
    """A file that another process can read: the stream's own, or a copy of what is in memory only."""
    try:
        yield stream.fileno()
    except OSError:
        with tempfile.TemporaryFile() as file:
            copyfileobj(stream, file)
            file.flush()
            yield file.fileno()


class NurseryDoor:
    """The one nursery of this process, opened when the first document comes; its own process after a fork."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._control: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0

    @contextmanager
    def child(self, request: Request, document: int) -> Iterator[tuple[socket.socket, BinaryIO]]:
        """A process that works on the request: its frames, and how it ended. It is killed at the end of the block."""
        output, theirs = socket.socketpair()
        heard, told = os.pipe()
        with output, os.fdopen(heard, "rb") as status:
            try:
                self._send(request, [document, theirs.fileno(), told])
            finally:
                theirs.close()
                os.close(told)
            yield output, status

    def _send(self, request: Request, files: list[int]) -> None:
        data = encode_request(request)
        message = [LENGTH.pack(len(data)) + data]
        with self._lock:
            try:
                socket.send_fds(self._opened(), message, files)
            except OSError:  # the nursery has died: killed for want of memory, perhaps
                self._close()
                socket.send_fds(self._opened(), message, files)

    def _opened(self) -> socket.socket:
        if self._control is None or self._owner != os.getpid():
            self._control, theirs = socket.socketpair()
            path = [str(Path(entry).absolute()) for entry in sys.path]
            boot = _BOOT.format(path=path, control=theirs.fileno())
            with theirs:
                self._process = subprocess.Popen(  # noqa: S603 - this Python, and a constant program
                    [sys.executable, "-c", boot],
                    env={name: os.environ[name] for name in _ENVIRON if name in os.environ} | _ONE_THREAD,
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,  # Ctrl-C is for the worker, which lets its documents finish
                )
            self._owner = os.getpid()
        return self._control

    def pid(self) -> int:
        """The nursery's process; 0 where there is none."""
        return self._process.pid if self._process is not None else 0

    def close(self) -> None:
        """Let the nursery end; a later document opens another."""
        with self._lock:
            self._close()

    def _close(self) -> None:
        if self._control is not None and self._owner == os.getpid():
            self._control.close()
            self._control = None
        if self._process is not None and self._owner == os.getpid():
            self._process.wait()


nursery: Final = NurseryDoor()
atexit.register(nursery.close)
