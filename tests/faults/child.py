"""A worker process: `python -m tests.faults.child URL TOTAL ADDS BATCH`.

Adds some jobs and, at the same time, runs whatever is there, until `TOTAL` have been completed by all. Each job that it ran
is told, a line each.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
from datetime import timedelta

from perdure import bootstrap
from perdure.core.jobs import JobService
from perdure.domain.job import NewJob
from perdure.domain.state import JobState
from perdure.domain.transition import complete
from perdure.settings import Settings
from perdure.testing.builders import KIND

LEASE = timedelta(minutes=5)


async def share(url: str, total: int, adds: int, batch: int) -> None:
    store = bootstrap.job_store(Settings(store=url))
    await store.setup()
    service, name = JobService(store), f"worker-{os.getpid()}"
    await service.start()

    async def adding() -> None:
        for left in range(adds, 0, -batch):
            await service.add_many(
                [NewJob(kind=KIND, tenant=f"tenant-{n % 3}") for n in range(min(left, batch))]
            )

    async def working() -> None:
        while True:
            jobs = await store.claim(name, [KIND], batch, LEASE)
            for job in jobs:
                print("ran", job.id)
            assert all(await service.apply([complete(job, name, service.stamp(name)) for job in jobs]))
            if not jobs:
                if (await store.stats(None)).by_state[JobState.COMPLETED] >= total:
                    return
                await asyncio.sleep(random.uniform(0.05, 0.2))

    await asyncio.gather(adding(), working())
    await store.close()


if __name__ == "__main__":
    asyncio.run(share(sys.argv[1], *map(int, sys.argv[2:])))
