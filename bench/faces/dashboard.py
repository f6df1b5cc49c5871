"""What the dashboard's pages cost the server, with a million jobs in PostgreSQL, and how soon a change elsewhere shows on an open page.

    python -m bench.faces.dashboard [--jobs 1000000] [--rounds 20]

Each page is drawn in turn by a server in this process, one at a time. Prints a JSON line for each: milliseconds from the request to the whole
answer, median and slowest of the rounds, after one to warm up; then one for rows of an open list: seconds from the commit of a job by another
replica until the page that asks as a browser does (every 0.5 s) has got it, median and slowest; and what counting for Prometheus costs a job, in microseconds.
Exit code 1 if a page took longer than 200 ms, or a row a second or more.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import statistics
import sys
import time
import timeit
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import asyncpg
import httpx

import perdure
from perdure.app import App
from perdure.domain.job import NewJob
from perdure.domain.query import JobFilter
from perdure.domain.transition import claim, complete
from perdure.rest import create_app
from perdure.settings import Settings
from perdure.testing.builders import make_job, make_stamp
from tests.servers.postgres import postgres_server

ENOUGH_MS, SOON = 200.0, 1.0
PAUSE = 0.5

FILL = """
INSERT INTO perdure_jobs (id, tenant, kind, state, due_at, created_at, updated_at, started_at, completed_at, priority, epoch, version,
                          attempt, max_attempts, rescues, max_rescues, worker, user_id, document_id, payload, run)
SELECT (lpad(to_hex((extract(epoch FROM born) * 1000)::bigint), 12, '0') || '7' || lpad(to_hex(n % 4096), 3, '0')
        || '8' || lpad(to_hex(n), 15, '0'))::uuid,
       CASE WHEN n % 10 = 0 THEN 'tenant-' || n % 500 ELSE 'default' END,
       (ARRAY['vectorize', 'transcribe', 'report'])[n % 3 + 1], state,
       CASE state WHEN 'pending' THEN born WHEN 'running' THEN now() + interval '1 hour' ELSE now() + interval '1 day' END,
       born, born, born + interval '1 s', CASE WHEN state IN ('completed', 'failed') THEN born + interval '3 s' END,
       0, 1, 3, 1, 3, 0, 3, 'host:' || n % 8, 'user-' || n % 1000, 'docs/page-' || n || '.md',
       '{"document_id": "page", "version": 1, "name": "page.md", "path": "/srv/docs/page.md"}',
       CASE state WHEN 'failed' THEN '{"failure": {"type": "EmbedderError", "message": "the model answered 500 to batch ' || n || '"}}' END::json
FROM (
    SELECT n, now() - n * interval '50 ms' AS born,
           CASE WHEN n < 5000 THEN 'pending' WHEN n < 5200 THEN 'running' WHEN n % 50 = 7 THEN 'failed' ELSE 'completed' END AS state
    FROM generate_series(1, $1::integer) AS n
) AS made
"""
COUNTS = "INSERT INTO perdure_counts SELECT tenant, kind, state, count(*) FROM perdure_jobs GROUP BY 1, 2, 3"


async def fill(url: str, jobs: int) -> None:
    connection = await asyncpg.connect(url, command_timeout=600)
    await connection.execute(FILL, jobs)
    await connection.execute(COUNTS)
    await connection.execute("ANALYZE")
    await connection.close()


@asynccontextmanager
async def browsing(app: App) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app=create_app(app))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


async def deep(client: httpx.AsyncClient) -> str:
    """The address of a page far behind the first."""
    path = "/jobs?status=completed"
    for _ in range(20):
        [older] = re.findall(r'href="([^"]+)">Older', (await client.get(path)).text)
        path = older.replace("&amp;", "&")
    return path


async def draw(client: httpx.AsyncClient, path: str, rounds: int) -> dict[str, object]:
    spent = []
    for _ in range(rounds + 1):
        begun = time.perf_counter()
        answer = await client.get(path)
        spent.append(1000 * (time.perf_counter() - begun))
        assert answer.status_code == 200, (path, answer.status_code)
    median, slowest = statistics.median(spent[1:]), max(spent[1:])
    told = re.sub(r"(cursor)=[^&]+", r"\1=…", path)
    return {
        "page": told,
        "ms": round(median, 1),
        "slowest_ms": round(slowest, 1),
        "first_ms": round(spent[0], 1),
    }


async def follow(client: httpx.AsyncClient, replica: App, rounds: int) -> dict[str, object]:
    """Ask as an open page does, while another replica adds jobs at moments of its own."""
    late = []
    for number in range(rounds):
        page = (await client.get("/jobs")).text
        adding = asyncio.create_task(_add_after(replica, number / rounds * PAUSE))
        while True:
            await asyncio.sleep(PAUSE)
            [again] = re.findall(r'hx-get="([^"]+)"', page)
            answer = await client.get(again.replace("&amp;", "&"))
            page = answer.text or page
            if adding.done() and adding.result()[0] in page:
                late.append(time.perf_counter() - adding.result()[1])
                break
    return {
        "row": "of another replica",
        "seconds": round(statistics.median(late), 2),
        "slowest": round(max(late), 2),
    }


async def _add_after(replica: App, seconds: float) -> tuple[str, float]:
    await asyncio.sleep(seconds)
    job = await replica.jobs.add(NewJob(kind="report"))
    return job.id, time.perf_counter()


def counting(app: App) -> float:
    now = datetime.now(UTC)
    job = claim(make_job(now), "w", timedelta(seconds=30), now)
    move = complete(job, None, make_stamp(now))
    [heed] = [one for one in app.jobs.listeners if "Metrics" in one.__qualname__]
    return min(timeit.repeat(lambda: heed(move), number=20_000, repeat=5)) / 20_000 * 1e6


async def measure(url: str, rounds: int) -> bool:
    good = True
    settings = Settings(store=url, vectors="memory:", embedder="hashing")
    async with (
        perdure.open(settings=settings, worker=False) as app,
        perdure.open(settings=settings, worker=False) as replica,
        browsing(app) as client,
    ):
        job = (await app.jobs.store.find(JobFilter(tenant="default"), 1))[0]
        paths = [
            "/",
            "/jobs",
            *(f"/jobs?status={state}" for state in ("pending", "completed", "failed", "cancelled")),
        ]
        paths += ["/jobs?kind=report&status=completed", "/jobs?user_id=user-7", await deep(client), "/dead"]
        for path in (*paths, f"/jobs/{job.id}", "/workers", "/tenants"):
            told = await draw(client, path, rounds)
            good &= told["slowest_ms"] <= ENOUGH_MS  # type: ignore[operator]
            print(json.dumps(told, ensure_ascii=False), flush=True)
        told = await follow(client, replica, max(5, rounds // 2))
        print(json.dumps(told), flush=True)
        print(json.dumps({"counting": "for Prometheus", "microseconds_a_job": round(counting(app), 2)}))
        return good and told["slowest"] < SOON  # type: ignore[operator]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=20)
    given = parser.parse_args()

    async def run(url: str) -> bool:
        async with perdure.open(url, vectors="memory:", embedder="hashing", worker=False):
            pass  # makes the tables
        await fill(url, given.jobs)
        return await measure(url, given.rounds)

    with postgres_server() as server:
        return not asyncio.run(run(server.url))


if __name__ == "__main__":
    sys.exit(main())
