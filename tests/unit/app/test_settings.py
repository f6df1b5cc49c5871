"""The environment becomes settings, or a clear word on what does not fit."""

from __future__ import annotations

from pathlib import Path

import pytest

from perdure.bootstrap import scheme_of, sqlite_path
from perdure.domain.errors import InvalidInput
from perdure.settings import DEFAULT_STORE, Settings
from perdure.wiring import embedder


def test_with_nothing_set_there_is_a_file_here() -> None:
    settings = Settings.from_environ({})
    assert settings == Settings()
    assert settings.store == DEFAULT_STORE == "sqlite:///perdure.db"
    assert settings.host == "127.0.0.1"
    assert settings.job_ttl.total_seconds() == 86_400


def test_each_field_can_be_given_in_the_environment() -> None:
    environ = {"PERDURE_STORE": "memory:", "PERDURE_CONCURRENCY": "4", "PERDURE_ALLOW_REMOTE": "true"}
    settings = Settings.from_environ(environ)
    assert (settings.store, settings.concurrency, settings.allow_remote) == ("memory:", 4, True)


def test_an_argument_wins_over_the_environment() -> None:
    settings = Settings.from_environ({"PERDURE_STORE": "memory:"}, store="sqlite:///x.db", embedder=None)
    assert (settings.store, settings.embedder) == ("sqlite:///x.db", "local")


@pytest.mark.parametrize(
    ("environ", "store"),
    [
        ({"JOB_STORE_TYPE": "memory"}, "memory:"),
        ({"JOB_STORE_TYPE": "sqlite", "SQLITE_PATH": "/var/jobs.db"}, "sqlite:////var/jobs.db"),
        ({"JOB_STORE_TYPE": "SQLite"}, "sqlite:///perdure.db"),
        ({"JOB_STORE_TYPE": "redis", "REDIS_URL": "redis://cache:6379/2"}, "redis://cache:6379/2"),
        ({"JOB_STORE_TYPE": "memory", "PERDURE_STORE": "sqlite:///new.db"}, "sqlite:///new.db"),
    ],
)
def test_the_older_names_still_work(environ: dict[str, str], store: str) -> None:
    assert Settings.from_environ(environ).store == store


def test_the_older_name_of_the_ttl() -> None:
    assert Settings.from_environ({"VECTORIZATION_JOB_TTL_HOURS": "48"}).job_ttl_hours == 48.0


@pytest.mark.parametrize(
    ("environ", "named"),
    [
        ({"PERDURE_CONCURRENCY": "many"}, "PERDURE_CONCURRENCY is 'many'"),
        ({"PERDURE_LEASE_SECONDS": "0"}, "PERDURE_LEASE_SECONDS is 0"),
        ({"PERDURE_GRACE_SECONDS": "-1"}, "PERDURE_GRACE_SECONDS is -1"),
        ({"JOB_STORE_TYPE": "oracle"}, "'oracle'"),
    ],
)
def test_what_does_not_fit_is_named(environ: dict[str, str], named: str) -> None:
    with pytest.raises(InvalidInput, match=named):
        Settings.from_environ(environ)


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:///perdure.db", "perdure.db"),
        ("sqlite:////var/lib/perdure.db", "/var/lib/perdure.db"),
        ("sqlite:///with%20space.db", "with space.db"),
    ],
)
def test_a_sqlite_url_names_a_file(url: str, path: str) -> None:
    assert sqlite_path(url) == Path(path)


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///", "sqlite://host/file.db"])
def test_a_sqlite_url_without_a_file_is_refused(url: str) -> None:
    with pytest.raises(InvalidInput, match="three slashes"):
        sqlite_path(url)


@pytest.mark.parametrize("url", ["oracle://x", "perdure.db", ""])
def test_an_unknown_store_is_refused_with_those_that_are_known(url: str) -> None:
    with pytest.raises(InvalidInput, match="sqlite:///"):
        scheme_of(url)


@pytest.mark.parametrize("name", ["gpt", "python:no.such.module:x", "python:perdure:nothing", "python:"])
def test_an_unknown_embedder_is_refused(name: str) -> None:
    with pytest.raises(InvalidInput, match="expected"):
        embedder(name)


def test_an_embedder_of_your_own_is_imported() -> None:
    assert embedder("python:perdure.embedders.hashing:HashingEmbedder").dimension == 256
