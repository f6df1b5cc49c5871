"""One REST server process under many clients: how long `GET /v1/jobs/{id}` takes, and what a thousand listeners cost.

The first part asks for jobs again and again over 200 connections, each for its own, with a key, in alternation with a bare Starlette endpoint
that gives the same bytes from memory; both run on uvicorn with the same loop. What a call costs the server beyond the bare one is
ours: routing, key, validation, store, rendering. The second part lets 1,000 clients listen to `/v1/events` while jobs run, and counts
what each one hears.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import AsyncExitStack, ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

import psutil

import perdure
from bench.rest.fuzz import make_key, serving
from perdure.settings import Settings
from tests.servers.postgres import fresh_database, postgres_server

if TYPE_CHECKING:
    from collections.abc import Iterator

BARE = """
import sys
import uvicorn
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

BODY = sys.stdin.readline().encode()

async def show(request):
    return Response(BODY, media_type="application/json")

class Server(uvicorn.Server):
    async def startup(self, sockets=None):
        await super().startup(sockets)
        print(self.servers[0].sockets[0].getsockname()[1], flush=True)

app = Starlette(routes=[Route("/v1/jobs/{job_id}", show)])
Server(uvicorn.Config(app, port=0, log_config=None, lifespan="off")).run()
"""


class Round(NamedTuple):
    """What one round on one server measured; times in milliseconds, `cpu` in microseconds a call."""

    p50: float
    p99: float
    rate: float
    cpu: float


@contextmanager
def bare(body: bytes) -> Iterator[tuple[str, int]]:
    """The bare endpoint in a process of its own."""
    command = [sys.executable, "-c", BARE]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(body + b"\n")
        process.stdin.flush()
        yield f"http://127.0.0.1:{int(process.stdout.readline())}", process.pid
    finally:
        process.terminate()
        process.communicate()


async def connect(url: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection to a server."""
    place = urlsplit(url)
    return await asyncio.open_connection(place.hostname, place.port)


def request(path: str, token: str) -> bytes:
    """A request as most clients send it."""
    return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {token}\r\nAccept: */*\r\n\r\n".encode()


async def load(url: str, pid: int, questions: list[bytes], seconds: float) -> Round:
    """Ask each question over a connection of its own, again when it has the answer."""
    took: list[float] = []
    connections = [(sent, *await connect(url)) for sent in questions]
    process = psutil.Process(pid)
    begin = time.perf_counter()
    before = sum(process.cpu_times()[:2])

    async def ask(sent: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while (at := time.perf_counter()) < begin + seconds:
            writer.write(sent)
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200"), head
            await reader.readexactly(int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0]))
            took.append(time.perf_counter() - at)

    await asyncio.gather(*(ask(*connection) for connection in connections))
    spent = sum(process.cpu_times()[:2]) - before
    for *_, writer in connections:
        writer.close()
    took.sort()
    p50, p99 = (took[int(len(took) * share)] * 1000 for share in (0.5, 0.99))
    return Round(p50, p99, len(took) / seconds, spent / len(took) * 1e6)


async def latency(settings: dict[str, Any], token: str, options: argparse.Namespace) -> None:
    """Print the first part."""
    async with perdure.open(settings=Settings(**settings), worker=False) as app:
        job = {"kind": "nobody", "payload": {"video_url": "v.mp4"}}
        jobs = await app.submit_many([job] * options.clients, tenant="acme")
    asked = [request(f"/v1/jobs/{one.id}", token) for one in jobs]
    with ExitStack() as stack:
        ours, pid = stack.enter_context(serving(settings))
        reader, writer = await connect(ours)
        writer.write(asked[0])
        head = await reader.readuntil(b"\r\n\r\n")
        body = await reader.readexactly(
            int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0])
        )
        writer.close()
        other, other_pid = stack.enter_context(bare(body))
        found: dict[str, list[Round]] = {"perdure": [], "bare": []}
        for _ in range(options.rounds):
            found["perdure"].append(await load(ours, pid, asked, options.seconds))
            found["bare"].append(await load(other, other_pid, asked, options.seconds))
    print(
        f"GET /v1/jobs/{{id}}, {options.clients} clients, medians of {options.rounds} rounds of {options.seconds:g} s"
    )
    median: dict[str, Round] = {}
    for name, rounds in found.items():
        median[name] = here = Round(*map(statistics.median, zip(*rounds, strict=True)))
        print(
            f"  {name:8} p50 {here.p50:6.1f} ms   p99 {here.p99:6.1f} ms   {here.rate:6,.0f} calls/s   "
            f"server {here.cpu:4.0f} µs of processor a call"
        )
    share = 1 - median["bare"].cpu / median["perdure"].cpu
    print(
        f"  ours is {share:.0%} of the processor time, {median['perdure'].cpu - median['bare'].cpu:.0f} µs a call"
    )
    one = await _alone(settings, asked[0])
    print(f"  one client alone: p50 {one.p50:.2f} ms, p99 {one.p99:.2f} ms")


async def _alone(settings: dict[str, Any], sent: bytes) -> Round:
    with serving(settings) as (url, pid):
        return await load(url, pid, [sent], 3)


async def listeners(settings: dict[str, Any], token: str, options: argparse.Namespace) -> None:
    """Print the second part."""
    heard = [Counter[str]() for _ in range(options.listeners)]
    delays: list[float] = []

    async def listen(number: int, reader: asyncio.StreamReader) -> None:
        async for line in reader:
            if line.startswith(b"data: "):
                event = json.loads(line[6:])
                heard[number][event["id"]] += 1
                delays.append(time.time() - _seconds(event["at"]))

    with serving(settings) as (url, pid):
        process = psutil.Process(pid)
        quiet = process.memory_info().rss
        async with AsyncExitStack() as stack:
            tasks = []
            for number in range(options.listeners):
                reader, writer = await connect(url)
                writer.write(request("/v1/events", token))
                await reader.readuntil(b"retry: 2000")
                stack.callback(writer.close)
                tasks.append(asyncio.create_task(listen(number, reader)))
            await asyncio.sleep(2)
            idle = await _share(process, 5)
            full = process.memory_info().rss
            before = sum(process.cpu_times()[:2])
            begin = time.perf_counter()
            want = await _work(settings, options.jobs)
            async with asyncio.timeout(120):
                while any(len(each) < len(want) for each in heard):
                    await asyncio.sleep(0.05)
            seconds = time.perf_counter() - begin
            spent = sum(process.cpu_times()[:2]) - before
            for task in tasks:
                task.cancel()
    lost = sum(len(want - set(each)) for each in heard)
    again = sum(each.total() - len(each) for each in heard)
    total = sum(each.total() for each in heard)
    delays.sort()
    print(
        f"{options.listeners} listeners of /v1/events on one process, {options.jobs} jobs, {len(want)} events"
    )
    print(f"  told {total:,} in {seconds:.1f} s, lost {lost}, twice {again}")
    print(
        f"  processor {spent:.1f} s, {spent / total * 1e6:.0f} µs an event and client; idle {idle:.1%} of a core"
    )
    print(f"  memory {(full - quiet) / options.listeners / 1000:.0f} kB a client")
    print(
        f"  behind the event: median {statistics.median(delays):.2f} s, p99 {delays[int(len(delays) * 0.99)]:.2f} s"
    )


def _seconds(moment: str) -> float:
    from datetime import datetime

    return datetime.fromisoformat(moment).timestamp()


async def _share(process: psutil.Process, seconds: float) -> float:
    before = sum(process.cpu_times()[:2])
    await asyncio.sleep(seconds)
    return float(sum(process.cpu_times()[:2]) - before) / seconds


async def _work(settings: dict[str, Any], jobs: int) -> set[str]:
    """Run jobs in this process; the ids of all that happened to them."""
    app = perdure.open(settings=Settings(**settings), worker=True)
    app.handler("work")(lambda _: None)
    async with app:
        made = []
        for _ in range(jobs):
            made.append(await app.submit("work", tenant="acme"))
            await asyncio.sleep(
                0.2
            )  # 15 events a second for each listener: about a third of what one process can tell
        for job in made:
            await app.wait(job.id, tenant="acme", timeout=60)
        stories = [await app.jobs.history(job.id, tenant="acme") for job in made]
    # Who listens is told that a run began, too, by an id of its own.
    return {entry.id for entries in stories for entry in entries} | {f"{job.id}/1" for job in made}


async def run(options: argparse.Namespace) -> None:
    """Both parts, on one store."""
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        store = f"sqlite:///{folder}/p.db"
        if options.store == "postgres":
            server = stack.enter_context(postgres_server())
            store = await stack.enter_async_context(fresh_database(server.url))
        settings = {"store": store, "embedder": "hashing", "port": 0, "poll_seconds": 0.2}
        token = await make_key(settings)
        await latency(settings, token, options)
        await listeners(settings, token, options)


def main() -> None:
    """Print both parts."""
    parser = argparse.ArgumentParser(prog="rest", description=__doc__)
    parser.add_argument("--store", choices=("sqlite", "postgres"), default="postgres")
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--listeners", type=int, default=1000)
    parser.add_argument("--jobs", type=int, default=100)
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
