"""The contract is worth what it catches: each deliberately wrong store must fail the test that names its mistake."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest

from perdure.ports.vector_store import VectorCapabilities
from perdure.testing.vector_store import FullTextSuite, VectorStoreContract
from perdure.testing.wrong_vectors import WRONG_VECTORS, WrongVectors
from perdure.vectors.memory import MemoryVectorStore


class Contract(VectorStoreContract, FullTextSuite):
    """The contract, run by hand on a store in memory."""

    capabilities = VectorCapabilities(durable=False, multi_process=False, full_text=True)


def cases(test: str) -> Iterator[dict[str, Any]]:
    """The arguments of each case of a contract's test: what its `parametrize` mark says, else none."""
    marks = getattr(getattr(Contract, test), "pytestmark", [])
    axes = [
        [dict(zip(names, value if len(names) > 1 else [value], strict=True)) for value in values]
        for names, values in (_axis(mark) for mark in marks if mark.name == "parametrize")
    ]
    for chosen in product(*axes):
        yield {name: value for arguments in chosen for name, value in arguments.items()}


def _axis(mark: pytest.Mark) -> tuple[list[str], list[Any]]:
    names, values = mark.args
    return (names.split(",") if isinstance(names, str) else list(names)), list(values)


async def failures(test: str, kind: type[MemoryVectorStore]) -> list[BaseException]:
    """Run every case of the test on a new store of this kind; what went wrong."""
    found: list[BaseException] = []
    for arguments in cases(test):
        vectors, method = kind(), getattr(Contract(), test)
        handles = {"vectors": vectors, "other": vectors}
        wanted = {name: handles[name] for name in inspect.signature(method).parameters if name in handles}
        try:
            await method(**wanted, **arguments)
        except (Exception, pytest.fail.Exception) as error:  # noqa: BLE001  # any failure is what is asked for
            found.append(error)
    return found


@pytest.mark.parametrize("wrong", WRONG_VECTORS, ids=lambda wrong: wrong.__name__)
async def test_the_contract_catches(wrong: type[WrongVectors]) -> None:
    assert await failures(wrong.caught_by, MemoryVectorStore) == [], "the right store must pass"
    assert await failures(wrong.caught_by, wrong), f"{wrong.__name__} passed {wrong.caught_by}"


def test_there_are_enough_mistakes() -> None:
    assert len(WRONG_VECTORS) >= 25
