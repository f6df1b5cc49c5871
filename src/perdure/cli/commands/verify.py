"""`perdure verify`"""

from __future__ import annotations

import click

from perdure.cli.call import Call, command
from perdure.cli.failures import OK, UNSUCCESSFUL
from perdure.cli.text import printable


@command("perdure verify", "perdure verify -n hr --repair", "perdure verify --json | jq -r .document_id")
@click.option("--namespace", "-n", metavar="NAME", help="Only this one; else all of the tenant.")
@click.option("--repair", is_flag=True, help="Put right what can be put right.")
async def verify(call: Call, namespace: str | None, *, repair: bool) -> int:
    """Compare jobs, documents and vectors, and mend what does not fit.

    A line for each thing that does not fit; all may be in use meanwhile. Documents that a job is working on are left alone. Exit code 1 if anything is left that does not fit.
    """
    found = left = 0
    async with call.open() as app:
        async for drift in app.verify(namespace, repair=repair, tenant=call.tenant):
            found, left = found + 1, left + (not drift.mended)
            about = f"{drift.namespace}/{drift.document_id}" if drift.document_id else drift.namespace
            end = "mended" if drift.mended else drift.remedy or "run it with --repair"
            call.show_each([drift], printable(f"{drift.what}: {about}: {drift.message}; {end}"))
    if not found:
        call.show_each([], "all fits together")
    return UNSUCCESSFUL if left else OK
