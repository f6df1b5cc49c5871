"""The page on settings names every setting with its default."""

from __future__ import annotations

from pathlib import Path

import msgspec

from perdure.settings import PREFIX, Settings

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "settings.md"


def test_the_page_names_every_setting_with_its_default() -> None:
    text = PAGE.read_text()
    for field in msgspec.structs.fields(Settings):
        assert f"`{PREFIX}{field.name.upper()}`" in text
        if isinstance(field.default, (int, float)) and not isinstance(field.default, bool):
            assert f"{field.default:g}".replace("1e+09", "1000000000") in text
