from __future__ import annotations

import subprocess
import sys

import click
import pytest

from perdure.cli.root import COMMANDS
from perdure.cli.root import perdure as root

from .conftest import Perdure

HEAVY = (
    *("apsw", "sqlite_vec", "wordllama", "numpy", "msgspec", "rich", "asyncio", "fastapi", "pydantic"),
    *("uvicorn", "docutils", "markdown_it", "selectolax", "semantic_text_splitter", "sqlite3"),
)


def leaves(group: click.Command, path: str) -> list[tuple[str, click.Command]]:
    """Every command below the group, by its whole name."""
    if not isinstance(group, click.Group):
        return [(path, group)]
    context = click.Context(group, info_name=path)
    found: list[tuple[str, click.Command]] = []
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        found += leaves(command, f"{path} {name}")
    return found


def test_help_imports_nothing_but_click() -> None:
    code = f"""
import sys
from perdure.cli import main
sys.argv[1:] = ["--help"]
try:
    main()
except SystemExit:
    pass
print(*(set(sys.modules) & set({HEAVY!r})), file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == ""
    assert "job-status" in done.stdout


def test_python_starts_it_too() -> None:
    command = [sys.executable, "-m", "perdure", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("perdure 0.")


def test_the_lines_of_the_table_are_those_of_the_commands() -> None:
    context = click.Context(root)
    for name, (_, line) in COMMANDS.items():
        command = root.get_command(context, name)
        assert command is not None
        assert (command.name, command.get_short_help_str(200)) == (name, line)


def test_every_command_has_help_and_takes_the_common_options(perdure: Perdure) -> None:
    found = leaves(root, "perdure")
    assert len(found) > 15
    for path, _ in found:
        outcome = perdure(*path.split()[1:], "--help")
        assert outcome.code == 0
        assert outcome.out.startswith(f"Usage: {path}")
        assert all(option in outcome.out for option in ("--store URL", "--tenant NAME", "--json"))
        assert "Example" in outcome.out


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["nonsense"], "No such command 'nonsense'. (see 'perdure --help')"),
        (["jobs", "list", "--nonsense"], "No such option '--nonsense'. (see 'perdure jobs list --help')"),
        (["ingest"], "Missing argument 'PATH…'. (see 'perdure ingest --help')"),
        (["ingest", "x", "--metadata", "lang"], "'lang' is no pair; expected e.g. lang=en"),
        (["ingest", "x", "--encoding", "klingon"], "'klingon' is no encoding; expected e.g. utf-8"),
        (["search", "x", "--filter", "[1]"], 'expected an object like \'{"lang": "en"}\''),
        (["search", "x", "--filter", "{"], 'expected an object like \'{"lang": "en"}\''),
        (["jobs", "cancel"], "Missing argument 'ID…'."),
        (["jobs", "retry"], "name the jobs, or give --failed"),
        (["jobs", "retry", "ID", "--failed"], "name the jobs, or give --failed"),
        (["jobs", "retry", "ID", "--kind", "mail"], "narrow --failed; leave them out beside ids"),
        (["jobs", "respond", "ID"], "give the answer as a text, or with --value as JSON"),
        (["jobs", "respond", "ID", "--value", "{"], "'{' is not JSON"),
        (["jobs", "edit", "ID"], "name at least one thing to change"),
        (
            ["jobs", "edit", "ID", "--run-at", "soon"],
            "'soon' is no time; expected e.g. 2031-05-04T12:00:00Z, or now",
        ),
        (["jobs", "edit", "ID", "--label", "team"], "'team' is no pair; expected e.g. team=search"),
        (["jobs", "edit", "ID", "--ttl", "long"], "'long' is no length of time; expected e.g. '45s'"),
        (["worker", "--import", "handlers"], "expected package.module:attribute"),
        (["worker", "--import", "no_such_module:register"], "importable from here"),
        (["worker", "--import", "os:no_such_function"], "has no attribute 'no_such_function'"),
        (["worker", "--import", "os:sep"], "is no function; expected def register(app)"),
    ],
)
def test_a_mistake_is_one_line_on_stderr(args: list[str], said: str, perdure: Perdure) -> None:
    outcome = perdure(*args)
    assert outcome.code == 2
    assert outcome.out == ""
    assert said in outcome.err
    assert outcome.err.startswith("perdure: ")
    assert outcome.err.count("\n") == 1


def test_who_looks_at_jobs_needs_no_place_for_vectors(
    perdure: Perdure, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PERDURE_VECTORS", "redis://nowhere")  # keeps none
    assert perdure("jobs", "list", "--store", "memory:") == (0, "", "perdure: no such jobs\n")
    assert "keeps jobs, not vectors" in perdure("documents", "list", "--store", "memory:").err
