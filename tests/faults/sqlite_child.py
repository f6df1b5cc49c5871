"""The processes that test_sqlite_processes.py starts, stops and kills: `python -m tests.faults.sqlite_child NAME PATH …`.

What a store has acknowledged is told at once, a line each, unbuffered, so that nothing said is lost by a kill.
"""

from __future__ import annotations

import asyncio
import os
import random
import resource
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from perdure.blobs.sqlite import SqliteBlobStore
from perdure.domain.errors import PerdureError
from perdure.domain.ids import uuid7
from perdure.domain.job import Job
from perdure.domain.state import JobState
from perdure.domain.transition import Stamp, complete
from perdure.stores.sqlite import SqliteJobStore

KIND = "work"
LEASE = timedelta(minutes=5)


def say(*words: object) -> None:
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


def new_id() -> str:
    return uuid7(datetime.now(UTC), random.getrandbits(74))


def make_jobs(number: int, size: int = 40) -> list[Job]:
    now = datetime.now(UTC)
    return [
        Job(
            id=new_id(),
            tenant=f"tenant-{n % 3}",
            kind=KIND,
            state=JobState.PENDING,
            due_at=now,
            created_at=now,
            updated_at=now,
            payload={"text": "x" * size},
        )
        for n in range(number)
    ]


async def add_and_say(store: SqliteJobStore, number: int, size: int = 40) -> None:
    jobs = make_jobs(number, size)
    await store.add(jobs)
    for job in jobs:
        say("added", job.id)


async def work_and_say(store: SqliteJobStore, limit: int) -> int:
    """Claim and complete some jobs; how many."""
    claimed = await store.claim(f"worker-{os.getpid()}", [KIND], limit, LEASE)
    for job in claimed:
        say("ran", job.id)
    now = datetime.now(UTC)
    moves = [
        complete(job, {"by": os.getpid()}, Stamp(at=now, actor="child", entry_id=new_id())) for job in claimed
    ]
    for job, stands in zip(claimed, await store.apply(moves), strict=True):
        say("completed" if stands else "refused", job.id)
    return len(claimed)


async def share(path: str, adds: str, total: str) -> None:
    """Add some jobs and, at the same time, run whatever is there, until `total` have been completed by all."""
    store = SqliteJobStore(path)
    await store.setup()

    async def adding() -> None:
        for _ in range(int(adds) // 50):
            await add_and_say(store, 50)

    async def working() -> None:
        while (await store.stats(None)).by_state[JobState.COMPLETED] < int(total):
            if not await work_and_say(store, 20):
                await asyncio.sleep(0.02)

    await asyncio.gather(adding(), working())
    await store.close()


async def toil(path: str) -> None:
    """Add and complete jobs until killed."""
    store = SqliteJobStore(path)
    await store.setup()

    async def adding() -> None:
        while True:
            await add_and_say(store, random.choice([1, 7, 40]), random.choice([0, 100, 9000]))

    async def working() -> None:
        while True:
            await work_and_say(store, random.choice([1, 10, 50]))

    await asyncio.gather(adding(), adding(), working(), working())


async def upload(path: str) -> None:
    """Write blobs of 4 MiB until killed."""
    blobs = SqliteBlobStore(path)
    await blobs.setup()
    while True:
        blob_id = new_id()
        content = blob_id[-8:].encode() * (512 * 1024)

        async def pieces(content: bytes = content):  # type: ignore[no-untyped-def]  # an async generator
            for start in range(0, len(content), 700_000):
                yield content[start : start + 700_000]

        await blobs.write("acme", blob_id, pieces())
        say("wrote", blob_id)


async def fill(path: str, room: str) -> None:
    """Add jobs until the disk, of which only `room` bytes are left, is full; then once more with room again."""
    store = SqliteJobStore(path)
    await store.setup()
    _soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (Path(path).stat().st_size + int(room), hard))
    try:
        while True:
            await add_and_say(store, 20, 2000)
    except PerdureError as error:
        say("refused", type(error).__name__, error)
    say("readable", (await store.stats(None)).total)
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    await add_and_say(store, 20, 2000)
    await store.close()


async def as_nobody(path: str) -> None:
    """Try to use a file that another user owns."""
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
    store = SqliteJobStore(path)
    try:
        await store.setup()
        await store.add(make_jobs(1))
    except PerdureError as error:
        say("refused", type(error).__name__, error)
    await store.close()


async def leave(path: str) -> None:
    """End without closing."""
    store = SqliteJobStore(path)
    await store.setup()
    await add_and_say(store, 10)


def fork(path: str) -> None:
    """Use the file, fork, and use it in parent and child, each with what it opened itself."""

    async def use() -> None:
        store = SqliteJobStore(path)
        await store.setup()
        for _ in range(20):
            await add_and_say(store, 5)
        await store.close()

    async def parent() -> None:
        store = SqliteJobStore(path)
        await store.setup()
        await add_and_say(store, 5)
        child = os.fork()
        if child == 0:
            os.execv(sys.executable, [sys.executable, "-m", "tests.faults.sqlite_child", "leave", path])
        await use()
        await asyncio.to_thread(os.waitpid, child, 0)
        await store.close()

    asyncio.run(parent())
    if os.fork() == 0:
        asyncio.run(use())
        os._exit(0)
    asyncio.run(use())
    os.wait()


ROLES: dict[str, Callable[..., Awaitable[None]]] = {
    role.__name__: role for role in (share, toil, upload, fill, as_nobody, leave)
}

if __name__ == "__main__":
    name, *arguments = sys.argv[1:]
    if name == "fork":
        fork(*arguments)
    else:
        asyncio.run(ROLES[name](*arguments))  # type: ignore[arg-type]  # each is a coroutine function
