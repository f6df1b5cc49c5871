"""The contracts are worth what they catch: each deliberately wrong store must fail the test that names its mistake."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from datetime import timedelta
from itertools import product
from typing import Any

import pytest

from perdure.ports.job_store import JobStore
from perdure.ports.vector_store import VectorCapabilities
from perdure.stores.memory import MemoryJobStore
from perdure.testing import FullTextSuite, JobStoreContract, VectorStoreContract
from perdure.testing.clock import MovableClock
from perdure.vectors.memory import MemoryVectorStore
from tests.wrong.stores import WRONG_STORES, WrongStore
from tests.wrong.vectors import WRONG_VECTORS, WrongVectors


class Jobs(JobStoreContract):
    """The contract of job stores, run by hand on a store in memory."""

    capabilities = MemoryJobStore.capabilities
    patience = 0.3

    def __init__(self) -> None:
        self.clock = MovableClock()

    async def advance(self, store: JobStore, seconds: float) -> None:
        self.clock.advance(timedelta(seconds=seconds))


class Vectors(VectorStoreContract, FullTextSuite):
    """The contract of vector stores, likewise."""

    capabilities = VectorCapabilities(durable=False, multi_process=False, full_text=True)


def cases(test: object) -> Iterator[dict[str, Any]]:
    """The arguments of each case of a contract's test: what its `parametrize` marks say, else none."""
    axes = [
        [dict(zip(names, value if len(names) > 1 else [value], strict=True)) for value in values]
        for names, values in (
            _axis(mark) for mark in getattr(test, "pytestmark", []) if mark.name == "parametrize"
        )
    ]
    for chosen in product(*axes):
        yield {name: value for arguments in chosen for name, value in arguments.items()}


def _axis(mark: pytest.Mark) -> tuple[list[str], list[Any]]:
    names, values = mark.args
    return [name.strip() for name in (names.split(",") if isinstance(names, str) else names)], list(values)


async def failures(test: str, kind: type[Any]) -> list[BaseException]:
    """Run every case of the test on a new store of this kind; what went wrong."""
    of_jobs = issubclass(kind, MemoryJobStore)
    found: list[BaseException] = []
    for arguments in cases(getattr(Jobs if of_jobs else Vectors, test)):
        contract = Jobs() if of_jobs else Vectors()
        store = kind(contract.clock) if isinstance(contract, Jobs) else kind()
        method = getattr(contract, test)
        handles = dict.fromkeys(
            {"store", "vectors", "other"} & {*inspect.signature(method).parameters}, store
        )
        try:
            await method(**handles, **arguments)
        except (Exception, pytest.fail.Exception) as error:  # noqa: BLE001  # any failure is what is asked for
            found.append(error)
    return found


@pytest.mark.parametrize("wrong", [*WRONG_STORES, *WRONG_VECTORS], ids=lambda wrong: wrong.__name__)
async def test_the_contract_catches(wrong: type[WrongStore | WrongVectors]) -> None:
    right = MemoryJobStore if issubclass(wrong, WrongStore) else MemoryVectorStore
    assert await failures(wrong.caught_by, right) == [], "the right store must pass"
    assert await failures(wrong.caught_by, wrong), f"{wrong.__name__} passed {wrong.caught_by}"


def test_there_are_enough_mistakes() -> None:
    assert len(WRONG_STORES) >= 25
    assert len({wrong.caught_by for wrong in WRONG_STORES}) >= 25
    assert len(WRONG_VECTORS) >= 25
