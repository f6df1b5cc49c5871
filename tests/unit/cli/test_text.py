from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from perdure.cli.text import age, counted, duration, printable

NOW = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)


def test_nothing_in_a_text_can_steer_the_terminal() -> None:
    hostile = "a\x1b[2Jb\x07c\x9bd\u202ee\ud800f"
    assert printable(hostile) == "a\ufffd[2Jb\ufffdc\ufffdd\ufffde\ufffdf"


def test_line_breaks_and_tabs_become_spaces() -> None:
    assert printable("a\tb\nc\r") == "a b c "


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (-1, "0.0 s"),
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (3599.6, "1 h 00 min"),
        (185, "3 min 05 s"),
        (7800, "2 h 10 min"),
        (356_400, "4 d 3 h"),
    ],
)
def test_durations_change_their_unit(seconds: float, expected: str) -> None:
    assert duration(seconds) == expected
    assert duration(timedelta(seconds=seconds)) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"), [(-5, "0 s"), (59, "59 s"), (60, "1 min"), (7300, "2 h"), (200_000, "2 d")]
)
def test_ages_have_one_unit(seconds: int, expected: str) -> None:
    assert age(NOW - timedelta(seconds=seconds), NOW) == expected


def test_counted_nouns() -> None:
    assert (counted(1, "file"), counted(2000, "file"), counted(0, "entry", "entries")) == (
        "1 file",
        "2,000 files",
        "0 entries",
    )
