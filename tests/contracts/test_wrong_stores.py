"""The contract is worth what it catches: each deliberately wrong store must fail the test that names its mistake."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from datetime import timedelta
from itertools import product
from typing import Any

import pytest

from perdure.ports.job_store import JobStore
from perdure.stores.memory import MemoryJobStore
from perdure.testing import JobStoreContract
from perdure.testing.clock import MovableClock
from perdure.testing.wrong_stores import WRONG_STORES, WrongStore


class Contract(JobStoreContract):
    """The contract, run by hand on a store in memory."""

    capabilities = MemoryJobStore.capabilities
    patience = 0.3

    def __init__(self) -> None:
        self.clock = MovableClock()

    async def advance(self, store: JobStore, seconds: float) -> None:
        self.clock.advance(timedelta(seconds=seconds))


def cases(test: str) -> Iterator[dict[str, Any]]:
    """The arguments of each case of a contract's test: what its `parametrize` mark says, else none."""
    marks = getattr(getattr(JobStoreContract, test), "pytestmark", [])
    axes = [
        [
            dict(zip(_names(mark), value if len(_names(mark)) > 1 else [value], strict=True))
            for value in mark.args[1]
        ]
        for mark in marks
        if mark.name == "parametrize"
    ]
    for chosen in product(*axes):
        yield {name: value for arguments in chosen for name, value in arguments.items()}


def _names(mark: pytest.Mark) -> list[str]:
    return [name.strip() for name in mark.args[0].split(",")]


async def failures(test: str, kind: type[MemoryJobStore]) -> list[BaseException]:
    """Run every case of the test on a new store of this kind; what went wrong."""
    found: list[BaseException] = []
    for arguments in cases(test):
        contract = Contract()
        store = kind(contract.clock)
        handles = {"store": store, "other": store}
        method = getattr(contract, test)
        wanted = {name: handles[name] for name in inspect.signature(method).parameters if name in handles}
        try:
            await method(**wanted, **arguments)
        except (Exception, pytest.fail.Exception) as error:  # noqa: BLE001  # any failure is what is asked for
            found.append(error)
    return found


@pytest.mark.parametrize("wrong", WRONG_STORES, ids=lambda wrong: wrong.__name__)
async def test_the_contract_catches(wrong: type[WrongStore]) -> None:
    assert await failures(wrong.caught_by, MemoryJobStore) == [], "the right store must pass"
    assert await failures(wrong.caught_by, wrong), f"{wrong.__name__} passed {wrong.caught_by}"


def test_there_are_enough_mistakes() -> None:
    assert len(WRONG_STORES) >= 25
    assert len({wrong.caught_by for wrong in WRONG_STORES}) >= 25
