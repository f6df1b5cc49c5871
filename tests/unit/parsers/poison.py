"""Parsers that do what hostile content may make a real one do. They run in the process that is made for it."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from perdure.domain.errors import DocumentEmpty
from perdure.ports.parser import Section


class Harmless:
    name = "poison-1"
    suffixes = frozenset({".poison"})
    media_types = frozenset[str]()
    signature = b""

    def parse(self, stream: BinaryIO, encoding: str | None) -> Iterator[Section]:
        """Say one thing, then do the harm."""
        yield Section(text=stream.read().decode(encoding or "utf-8"), start=0, metadata={"pid": os.getpid()})
        yield from self.harm()

    def harm(self) -> Iterator[Section]:
        yield from ()


class Crashes(Harmless):
    def harm(self) -> Iterator[Section]:
        ctypes.string_at(0)
        yield from ()


class Hangs(Harmless):
    def harm(self) -> Iterator[Section]:
        time.sleep(600)
        yield from ()


class Loops(Harmless):
    def harm(self) -> Iterator[Section]:
        while True:
            pass
        yield from ()


class Swells(Harmless):
    def harm(self) -> Iterator[Section]:
        held = []
        while True:
            held.append(bytearray(10_000_000))
        yield from ()


class Raises(Harmless):
    def harm(self) -> Iterator[Section]:
        raise KeyError("no such thing")
        yield from ()


class Empty(Harmless):
    def harm(self) -> Iterator[Section]:
        raise DocumentEmpty("there is nothing in it")
        yield from ()


class StopsShort(Harmless):
    """Ends as if it had said all."""

    def harm(self) -> Iterator[Section]:
        os._exit(0)
        yield from ()


class HangsUp(Harmless):
    """Lives on, but is not there to talk to."""

    def harm(self) -> Iterator[Section]:
        os.closerange(3, 100)
        time.sleep(600)
        yield from ()


class Babbles(Harmless):
    """Sends what is no frame."""

    def harm(self) -> Iterator[Section]:
        for descriptor in range(3, 20):
            try:
                socket.socket(fileno=os.dup(descriptor)).send(b"\xff" * 100)
            except OSError:
                continue
        yield from ()


class Never(Harmless):
    """Has always one thing more to say."""

    def harm(self) -> Iterator[Section]:
        start = 0
        while True:
            start += 10_000
            yield Section(text="x" * 10_000, start=start)


class Prowls(Harmless):
    """Tells what it was able to do."""

    def harm(self) -> Iterator[Section]:
        able = list[str]()
        deeds: dict[str, Callable[[], object]] = {
            "network": lambda: socket.create_connection(("127.0.0.1", 9), 1),
            "local socket": lambda: socket.socket(socket.AF_UNIX),
            "program": lambda: os.execv("/bin/true", ["true"]),
            "kill": lambda: os.kill(os.getppid(), signal.SIGKILL),
            "write": lambda: Path("/tmp/perdure-was-here").write_text("x"),
            "other documents": lambda: [os.fstat(number) for number in range(5, 40)],
        }
        for what, do in deeds.items():
            try:
                do()
            except OSError:
                continue
            able.append(what)
        secrets = [name for name in os.environ if name.startswith(("PERDURE_", "PYTEST"))]
        yield Section(text=f"able: {able} {secrets}", start=10_000)
