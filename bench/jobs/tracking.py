"""What tracking costs the work that it tracks, per unit, with the store up and with the store down.

    python -m bench.jobs.tracking [--units 5000] [--store postgres|valkey]

First the worker of `examples/service_bus_worker.py` on the tests' peer of Service Bus, with a record of each message on SQLite and without: milliseconds
for each message, the median of three turns. Then one JSON line for each store. A unit comes in, reports progress once, and ends with a result:

* `caller us`: microseconds of processor time inside tracking's own calls; `wall us`: of time beyond the same work untracked, all that shares the event
  loop, the writes in the background among it.
* `awaited us`: what the same three writes cost a work that waits for the store.
* `kept bytes`: memory for each record that waits while the store is down; `replayed/s`: how many are written once it is back.

Down, the store is killed (-9) before the first unit and started after the last. Exits with 1 where a record is missing or wrong, or
costs a message more than 5 ms.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import runpy
import sys
import tempfile
import time
import tracemalloc
from datetime import timedelta
from pathlib import Path
from statistics import median
from typing import Any, Self

import uvloop
from azure.servicebus import ServiceBusMessage
from azure.servicebus.aio import ServiceBusClient

import perdure
from perdure import bootstrap
from perdure.core.jobs import JobService
from perdure.core.tracking import BUFFER, Tracked, Tracker
from perdure.domain import transition
from perdure.domain.job import NewJob, Progress
from perdure.domain.state import JobState
from perdure.settings import Settings
from tests.servers.postgres import PostgresServer, postgres_server
from tests.servers.redis import RedisServer, redis_server
from tests.servers.service_bus import ServiceBus

AWAITED, WEIGHED = 300, 2000
MESSAGES, MOST = 200, 5.0
"""Of each turn of the example's worker; milliseconds that the record of one may cost."""
EXAMPLE = Path(__file__).parents[2] / "examples" / "service_bus_worker.py"
LEASE = timedelta(seconds=30)


async def tracked(tracker: Tracker, units: int) -> tuple[float, float]:
    """Track so many; microseconds of each: of processor time inside tracking's calls, and of time in all."""
    inside, begun = 0.0, time.perf_counter()
    for n in range(units):
        entering = time.thread_time()
        async with tracker.track("work", payload={"n": n}) as job:
            job.progress(0.5, "half")
            working = time.thread_time()
            await asyncio.sleep(0)
            leaving = time.thread_time()
            job.result = {"n": n}
        inside += time.thread_time() - leaving + working - entering
    return 1e6 * inside / units, 1e6 * (time.perf_counter() - begun) / units


async def untracked(units: int) -> float:
    begun = time.perf_counter()
    for _ in range(units):
        await asyncio.sleep(0)
    return 1e6 * (time.perf_counter() - begun) / units


async def awaited(url: str) -> float:
    """Microseconds for a unit whose work waits for each of its writes."""
    jobs = JobService(bootstrap.job_store(Settings(store=url)))
    await jobs.start()
    begun = time.perf_counter()
    for n in range(AWAITED):
        new = jobs.make(NewJob(kind="awaited", payload={"n": n}))
        job = transition.claim(new, "bench", LEASE, jobs.clock.now())
        await jobs.store.add([job])
        note = transition.save(job, jobs.clock.now(), progress=Progress(fraction=0.5, message="half"))
        await jobs.apply([note])
        await jobs.apply([transition.complete(note.after, {"n": n}, jobs.stamp("bench"))])
    taken = 1e6 * (time.perf_counter() - begun) / AWAITED
    await jobs.close()
    await jobs.store.close()
    return taken


async def drained(tracker: Tracker) -> float:
    """Seconds until all is written."""
    begun = time.perf_counter()
    while tracker.waiting:
        await asyncio.sleep(0.01)
    return time.perf_counter() - begun


async def weighed(tracker: Tracker) -> float:
    """Bytes for each record that waits."""
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    await tracked(tracker, WEIGHED)
    kept = (tracemalloc.get_traced_memory()[0] - before) / WEIGHED
    tracemalloc.stop()
    return kept


async def completed(url: str) -> int:
    async with perdure.open(url, vectors="memory:", embedder="hashing", worker=False) as app:
        return (await app.jobs.stats("default")).counts["work"].get(JobState.COMPLETED, 0)


async def measure(name: str, server: PostgresServer | RedisServer, units: int) -> bool:
    async with perdure.tracker(server.url) as tracker:
        await tracked(tracker, 100)
        await drained(tracker)
        bare = await untracked(units)
        caller, wall = await tracked(tracker, units)
        rest = await drained(tracker)
    waiting = await awaited(server.url)
    server.kill()
    async with perdure.tracker(server.url) as tracker:
        down_caller, down_wall = await tracked(tracker, units)
        kept = await weighed(tracker)
        await asyncio.to_thread(server.start)
        replayed = await drained(tracker)
        dropped = tracker.dropped
    told = {
        "store": name,
        "units": units,
        "up": {
            "caller us": round(caller, 1),
            "wall us": round(wall - bare, 1),
            "seconds behind": round(rest, 2),
            "awaited us": round(waiting, 1),
        },
        "down": {
            "caller us": round(down_caller, 1),
            "wall us": round(down_wall - bare, 1),
            "kept bytes": round(kept),
            "replayed/s": round((units + WEIGHED) / replayed),
        },
    }
    print(json.dumps(told), flush=True)
    return dropped == 0 and await completed(server.url) == 100 + 2 * units + WEIGHED


class Untracked(Tracked):
    """No record."""

    def __init__(self) -> None:
        self.result: object = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass


class Nothing(Tracker):
    """Keeps no records."""

    def __init__(self) -> None:
        pass

    def track(self, kind: str, *, attempt: int = 1, **options: Any) -> Tracked:
        return Untracked()


async def through(bus: ServiceBus, tracker: Tracker) -> float:
    """Milliseconds for each message that the example's worker gets and settles."""
    example = runpy.run_path(str(EXAMPLE))
    said = {"tenantId": "acme", "shardTypeId": "notes", "text": "One.\n\nTwo."}
    async with (
        ServiceBusClient.from_connection_string(bus.connection_string) as client,
        client.get_queue_sender("work") as sender,
        client.get_queue_receiver("work") as receiver,
    ):
        for n in range(MESSAGES):
            await sender.send_messages(ServiceBusMessage(json.dumps({**said, "shardId": str(n)})))
        begun = time.perf_counter()
        for _ in range(MESSAGES):
            (message,) = await receiver.receive_messages(1)
            await example["handle"](tracker, receiver, message, example["embed"], 10)
        return 1e3 * (time.perf_counter() - begun) / MESSAGES


async def worker_of_the_example(folder: Path) -> bool:
    bus = await ServiceBus().start()
    bus.queue("work", lock=300)
    try:
        async with perdure.tracker(f"sqlite:///{folder / 'records.db'}") as tracker:
            turns = [(await through(bus, Nothing()), await through(bus, tracker)) for _ in range(3)]
            await drained(tracker)
            kept = tracker.dropped == 0
    finally:
        await bus.stop()
    bare, tracked = (median(times) for times in zip(*turns, strict=True))
    told = {
        "messages": MESSAGES,
        "without ms": round(bare, 2),
        "tracked ms": round(tracked, 2),
        "overhead ms": round(tracked - bare, 2),
    }
    print(json.dumps({"service bus worker": told}), flush=True)
    return kept and tracked - bare <= MOST


async def run(stores: list[str], units: int) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        right = await worker_of_the_example(Path(folder))
    for name in stores:
        with postgres_server() if name == "postgres" else redis_server() as server:
            right &= await measure(name, server, units)
    return right


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--units", type=int, default=5000, help=f"at most {BUFFER - WEIGHED}, which fit into the buffer"
    )
    parser.add_argument("--store", choices=["postgres", "valkey"], action="append")
    arguments = parser.parse_args()
    return 0 if uvloop.run(run(arguments.store or ["postgres", "valkey"], arguments.units)) else 1


if __name__ == "__main__":
    sys.exit(main())
