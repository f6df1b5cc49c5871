"""The store from a terminal."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from perdure import bootstrap
from perdure.bootstrap import Parts
from perdure.settings import Settings

from .conftest import Perdure


@pytest.mark.parametrize("args", [["init"], ["info"], ["init", "--json"], ["info", "--json"]])
def test_whatever_is_told_of_a_store_its_password_is_not(
    perdure: Perdure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, args: list[str]
) -> None:
    build = bootstrap.build

    def nearby(settings: Settings) -> Parts:
        return build(replace(settings, store=f"sqlite:///{tmp_path}/perdure.db"))

    monkeypatch.setattr(bootstrap, "build", nearby)
    told = perdure("store", *args, "--store", "postgresql://ann:secret@db/perdure")
    assert told.code == 0
    assert "postgresql://ann:***@db/perdure" in told.out
    assert "secret" not in told.out + told.err
