from __future__ import annotations

import errno
import io
import itertools
import os
import signal
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from perdure.domain.errors import DocumentEmpty, DocumentError, DocumentUnreadable, RetryAfter
from perdure.parsers.frames import Request, encode_request
from perdure.parsers.nursery import LENGTH, Nursery
from perdure.parsers.sandbox import Limits, Sandboxed, nursery
from perdure.ports.parser import Section
from tests.unit.parsers import poison

LIMITS = Limits(memory=300_000_000, silence=30.0, cpu=60)
WORDS = b"words" * 20_000  # so many that they are sent at once
linux = sys.platform == "linux"


def sandboxed(parser: poison.Harmless, limits: Limits = LIMITS) -> Iterator[Section]:
    return Sandboxed(parser, limits).parse(io.BytesIO(WORDS), None)


def all_of(parser: poison.Harmless, limits: Limits = LIMITS) -> list[Section]:
    return list(sandboxed(parser, limits))


def test_what_the_parser_yields_arrives_from_another_process() -> None:
    (section,) = all_of(poison.Harmless())
    assert section.text == WORDS.decode()
    assert section.metadata["pid"] not in {os.getpid(), nursery.pid()}


def test_every_document_has_a_process_of_its_own() -> None:
    pids = {all_of(poison.Harmless())[0].metadata["pid"] for _ in range(5)}
    assert len(pids) == 5


def test_a_file_is_read_from_its_beginning_where_it_lies(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes("wörter".encode("latin-1"))
    with path.open("rb") as stream:
        stream.read(3)
        assert [
            section.text for section in Sandboxed(poison.Harmless(), LIMITS).parse(stream, "latin-1")
        ] == ["wörter"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("parser", "limits", "message"),
    [
        (poison.Crashes(), LIMITS, r"its parser crashed \(SIGSEGV\)"),
        (poison.Swells(), LIMITS, "its parser needs more than 300 MB"),
        (poison.Loops(), Limits(memory=300_000_000, cpu=1), "more than 1 seconds of processor time"),
        (poison.Never(), Limits(memory=300_000_000, cpu=1), "more than 1 seconds of processor time"),
        (poison.Hangs(), Limits(silence=2.0), "gave nothing for 2 seconds and was stopped"),
        (poison.Raises(), LIMITS, r"damaged, or not what its name says \(KeyError: 'no such thing'\)"),
        (poison.StopsShort(), LIMITS, r"its parser crashed \(exit code 0\)"),
        (poison.Babbles(), LIMITS, "its parser crashed"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, poison.Harmless) else "",
)
def test_a_parser_that_goes_wrong_is_an_error_of_the_document(
    parser: poison.Harmless, limits: Limits, message: str
) -> None:
    with pytest.raises(DocumentUnreadable, match=message):
        deque(sandboxed(parser, limits), maxlen=0)
    assert all_of(poison.Harmless())  # and of no other


def test_a_parsers_own_error_arrives_as_it_is() -> None:
    with pytest.raises(DocumentEmpty, match=r"^there is nothing in it$"):
        all_of(poison.Empty())


def test_a_process_that_hangs_up_but_lives_is_killed_and_the_document_tried_again() -> None:
    sections = sandboxed(poison.HangsUp())
    pid = next(sections).metadata["pid"]
    with pytest.raises((DocumentError, RetryAfter)):
        list(sections)
    assert isinstance(pid, int)
    wait_until_gone(pid)


def test_the_process_ends_with_the_iterator() -> None:
    sections = sandboxed(poison.Never())
    pid = next(sections).metadata["pid"]
    assert isinstance(pid, int)
    assert psutil.pid_exists(pid)
    sections.close()  # type: ignore[attr-defined]
    wait_until_gone(pid)


@pytest.mark.slow
def test_time_in_which_nobody_asks_is_no_silence() -> None:
    sections = sandboxed(poison.Never(), Limits(silence=1.0))
    next(sections)
    time.sleep(2.5)
    assert len(list(itertools.islice(sections, 500))) == 500
    sections.close()  # type: ignore[attr-defined]


def test_many_documents_at_once_keep_apart() -> None:
    def read(number: int) -> str:
        text = f"document {number} " * 1000
        return "".join(
            s.text for s in Sandboxed(poison.Harmless(), LIMITS).parse(io.BytesIO(text.encode()), None)
        )

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(read, range(40))) == [f"document {number} " * 1000 for number in range(40)]


def test_a_nursery_that_died_is_replaced() -> None:
    all_of(poison.Harmless())
    os.kill(nursery.pid(), signal.SIGKILL)
    wait_until_gone(nursery.pid())
    assert all_of(poison.Harmless())


def test_a_nursery_that_dies_before_it_takes_a_document_up_is_nothing_that_anybody_hears_of(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    all_of(poison.Harmless())
    dead, send = nursery.pid(), nursery._send

    def send_and_lose(request: Request, files: list[int]) -> None:
        monkeypatch.undo()
        os.kill(dead, signal.SIGSTOP)
        send(request, files)
        os.kill(dead, signal.SIGKILL)

    monkeypatch.setattr(nursery, "_send", send_and_lose)
    assert all_of(poison.Harmless())
    assert nursery.pid() != dead


def test_a_process_that_cannot_be_made_is_lost_and_the_nursery_lives_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def no_memory() -> int:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr(os, "fork", no_memory)
    request = encode_request(Request(parser="none:None", encoding=None, memory=1, cpu=1))
    control, theirs = socket.socketpair()
    with control, theirs, ThreadPoolExecutor(1) as threads:
        running = threads.submit(Nursery(theirs).run)
        for _ in range(2):
            heard, told = os.pipe()
            with os.fdopen(heard, "rb") as status, Path(os.devnull).open("rb") as document:
                files = [document.fileno(), told, told]
                socket.send_fds(control, [LENGTH.pack(len(request)) + request], files)
                os.close(told)
                assert status.read() == b""
        control.close()
        running.result(30)


def test_a_document_whose_nursery_dies_is_tried_again_later() -> None:
    sections = sandboxed(poison.Hangs())
    next(sections)
    killer = threading.Timer(0.5, os.kill, (nursery.pid(), signal.SIGKILL))
    killer.start()
    with pytest.raises(RetryAfter, match="the parsing process was lost") as caught:
        list(sections)
    assert caught.value.counts
    killer.join()


def test_the_process_can_do_next_to_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    nursery.close()
    monkeypatch.setenv("PERDURE_STORE", "postgresql://user:password@host/db")
    able = all_of(poison.Prowls())[-1].text
    # Without seccomp (macOS) only files cannot be written.
    assert able == "able: [] []" if linux else "write" not in able


def wait_until_gone(pid: int) -> None:
    deadline = time.monotonic() + 120
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, "the process is still there"
        time.sleep(0.02)
