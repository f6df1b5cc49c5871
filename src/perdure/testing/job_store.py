"""The contract of `perdure.ports.job_store.JobStore`, as tests.

A backend's whole suite is a class with its abilities and one fixture:

```python
class TestMyStore(JobStoreContract):
    capabilities = Capabilities(durable=True, ...)

    @pytest_asyncio.fixture
    async def store(self, tmp_path):
        store = MyStore(tmp_path / "jobs")
        await store.setup()
        yield store
        await store.close()

    async def second(self, store):
        handle = MyStore(store.path)
        await handle.setup()
        return handle
```

No test may be overridden. Needs pytest and pytest-asyncio.
"""

from __future__ import annotations

from perdure.testing.jobs.applying import ApplySuite, GuardSuite
from perdure.testing.jobs.keeping import AddSuite, ExpirySuite
from perdure.testing.jobs.living import LifeSuite
from perdure.testing.jobs.logging import LogSuite, ValueSuite
from perdure.testing.jobs.owning import ClaimSuite, LeaseSuite
from perdure.testing.jobs.reading import ReadSuite
from perdure.testing.jobs.sharing import LimitSuite, ShareSuite
from perdure.testing.jobs.tracking import TrackSuite
from perdure.testing.jobs.walking import RaceSuite, WalkSuite


class JobStoreContract(
    AddSuite,
    ReadSuite,
    ClaimSuite,
    LeaseSuite,
    LimitSuite,
    ShareSuite,
    ApplySuite,
    GuardSuite,
    TrackSuite,
    RaceSuite,
    ExpirySuite,
    LifeSuite,
    LogSuite,
    ValueSuite,
    WalkSuite,
):
    """Everything that a job store promises. Subclass it once for each backend."""
