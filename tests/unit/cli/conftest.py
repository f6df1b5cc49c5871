from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest

from perdure.cli import main


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


Perdure = Callable[..., Outcome]


@pytest.fixture
def perdure(capsys: pytest.CaptureFixture[str]) -> Iterator[Perdure]:
    """Run the command line in this process; logging is left as it was found."""

    def run(*args: str) -> Outcome:
        with pytest.raises(SystemExit) as exited:
            main(list(args))
        out, err = capsys.readouterr()
        assert isinstance(exited.value.code, int)
        return Outcome(exited.value.code, out, err)

    logger, worker_logger = logging.getLogger("perdure"), logging.getLogger("perdure.core.worker")
    before = logger.handlers[:], logger.level, logger.propagate, worker_logger.level
    yield run
    logger.handlers[:], logger.level, logger.propagate, worker_logger.level = before
