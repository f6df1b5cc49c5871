"""`perdure`: the group of all commands, and the gate through which every error leaves."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any, Final

import click

from perdure.cli.call import call_options

COMMANDS: Final = {
    "ingest": ("ingest:ingest", "Turn files and folders into searchable chunks."),
    "search": ("search:search", "Find the passages that answer a question."),
    "documents": ("documents:documents", "List or delete documents."),
    "reindex": ("reindex:reindex", "Move a namespace to another embedding model."),
    "jobs": ("jobs:jobs", "List, watch and steer jobs of any kind."),
    "dead": ("dead:dead", "List failed jobs, send them round again, or discard them."),
    "job-status": ("jobs:job_status", "Tell in short how a job stands."),
    "webhooks": ("webhooks:webhooks", "Tell other systems what happens to jobs."),
    "feed": ("feed:feed", "Let documents come by themselves, from a folder or a database."),
    "worker": ("worker:worker", "Run jobs until stopped."),
    "serve": ("serve:serve", "Serve the REST API, with a worker inside."),
    "keys": ("keys:keys", "Make, list, rotate and revoke API keys."),
    "doctor": ("doctor:doctor", "Look what is wrong here, and tell what to do."),
    "verify": ("verify:verify", "Compare jobs, documents and vectors, and mend what does not fit."),
    "store": ("store:store", "Set up the store, look into it, check it, move it."),
}
"""name → where it lives (`module:attribute`), and the line that the help shows for it."""

EPILOG = """\b
Start here:
  perdure ingest docs/
  perdure search "how do I request leave?"

\b
Environment:
  PERDURE_STORE   where jobs and chunks live (default sqlite:///perdure.db)
  PERDURE_SERVER  a running server in its place (with PERDURE_KEY)
  PERDURE_TENANT  whose they are (default "default")
  PERDURE_ACTOR   who acts, for the histories of jobs
  PERDURE_DEBUG=1 show the traceback of an error
  NO_COLOR=1      no colours

\b
Exit codes:
  0  all well
  1  some jobs failed, or the job has not ended well
  2  usage or bad input
  3  not found
  4  the store is unavailable, damaged, or of another schema"""


class _LazyGroup(click.Group):
    """Imports a command only when it is run or asked for help, so that `--help` costs no import of what it needs."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, attribute = COMMANDS[cmd_name][0].split(":")
        command = getattr(import_module(f"perdure.cli.commands.{module}"), attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


@click.group(
    cls=_LazyGroup,
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@call_options
@click.version_option(package_name="perdure", prog_name="perdure", message="%(prog)s %(version)s")
def perdure() -> None:
    """Turn documents into searchable chunks through jobs that survive anything."""


def main(args: list[str] | None = None) -> None:
    """Run the command line; never returns: the process's exit code says how it went."""
    # A terminal that cannot show a character shows a question mark; that is no reason to stop.
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    try:
        code: Any = perdure.main(args, prog_name="perdure", standalone_mode=False)
        sys.stdout.flush()
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - the gate: each error becomes a line and a code
        from perdure.cli.failures import report

        code = report(error)
    sys.exit(code if isinstance(code, int) else 0)
