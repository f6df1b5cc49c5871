from __future__ import annotations

import click
import pytest

from perdure.cli.failures import exit_code, report
from perdure.domain import errors


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.InvalidInput("x"), 2),
        (errors.UnknownKind("x"), 2),
        (errors.UnsupportedFormat("x"), 2),
        (errors.ModelMismatch("x"), 2),
        (click.UsageError("x"), 2),
        (errors.NotFound("x"), 3),
        (errors.StoreUnavailable("x"), 4),
        (errors.StoreCorrupt("x"), 4),
        (errors.SchemaMismatch("x"), 4),
        (errors.IllegalTransition("x"), 1),
        (errors.WaitTimeout("x"), 1),
        (KeyboardInterrupt(), 130),
        (RuntimeError("x"), 70),
        (ExceptionGroup("g", [ExceptionGroup("h", [errors.StoreCorrupt("x")])]), 4),
    ],
)
def test_exit_codes_tell_scripts_what_happened(error: BaseException, code: int) -> None:
    assert exit_code(error) == code


def test_an_error_is_one_line_with_its_remedy(capsys: pytest.CaptureFixture[str]) -> None:
    report(errors.StoreCorrupt("perdure.db is no database;\nname another with --store"))
    out, err = capsys.readouterr()
    assert (out, err) == ("", "perdure: perdure.db is no database; name another with --store\n")


def test_an_error_without_words_is_explained_by_its_class(capsys: pytest.CaptureFixture[str]) -> None:
    report(errors.NotFound())
    assert capsys.readouterr().err == f"perdure: {errors.NotFound.__doc__}\n"


def test_what_a_worker_broke_on_is_said_not_the_group_around_it(capsys: pytest.CaptureFixture[str]) -> None:
    report(ExceptionGroup("unhandled errors in a TaskGroup", [errors.StoreCorrupt("damaged")]))
    assert capsys.readouterr().err == "perdure: damaged\n"


def test_a_usage_error_names_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    report(click.UsageError("No such option: --foo"))
    assert capsys.readouterr().err == "perdure: No such option: --foo (see 'perdure --help')\n"


def test_a_traceback_is_shown_only_on_request(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PERDURE_DEBUG", raising=False)
    try:
        raise RuntimeError("oops")
    except RuntimeError as error:
        report(error)
        assert "Traceback" not in capsys.readouterr().err
        monkeypatch.setenv("PERDURE_DEBUG", "1")
        report(error)
        assert "Traceback" in capsys.readouterr().err
