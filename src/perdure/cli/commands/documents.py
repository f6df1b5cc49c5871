"""`perdure documents …`"""

from __future__ import annotations

import click

from perdure import wire
from perdure.cli.call import Call, command
from perdure.cli.output import say
from perdure.cli.show import table
from perdure.cli.text import counted, moment, printable
from perdure.domain.errors import Deferred

_namespace = click.option("--namespace", "-n", default="default", show_default=True, help="Where they are.")


@click.group(epilog="\b\nExamples:\n  perdure documents list -n hr\n  perdure documents delete notes/old.md")
def documents() -> None:
    """List or delete documents."""


@command("perdure documents list -n hr --json | jq -r .document_id", name="list", group=documents)
@_namespace
@click.option("--limit", "-l", type=click.IntRange(1, 1000), default=20, show_default=True)
@click.option("--after", metavar="ID", help="Only documents after this one: the last of the page before.")
async def list_documents(call: Call, namespace: str, limit: int, after: str | None) -> None:
    """List the documents that searches find, by id.

    With --json each document is a line.
    """
    async with call.open() as app:
        found = await app.documents.documents(call.tenant, namespace, limit + 1, after)
    page = wire.DocumentPage.of(found, limit)
    rows = table("DOCUMENT", "CHUNKS", "PUBLISHED", right=["CHUNKS"], wrap=["DOCUMENT"])
    for one in page.items:
        rows.add_row(printable(one.document_id), f"{one.chunk_count:,}", moment(one.published_at))
    call.show_each(page.items, rows)
    if page.next_cursor is not None:
        say(f"there are more: --after {page.next_cursor}")


@command("perdure documents delete notes/old.md", name="delete", group=documents)
@click.argument("document_id", metavar="ID")
@_namespace
@click.option("--version", type=click.IntRange(0), help="Only versions up to this one.")
async def delete_document(call: Call, document_id: str, namespace: str, version: int | None) -> None:
    """Take a document away, in all its versions.

    What is under way for it is cancelled. Where the vector store is away, a job deletes it once it is back.
    """
    async with call.open() as app:
        try:
            deleted = await app.delete_document(
                document_id, namespace=namespace, tenant=call.tenant, version=version
            )
        except Deferred as noted:
            call.show({"job_id": noted.job_id}, str(noted))
            return
    call.show(wire.Deleted(chunks_deleted=deleted), f"{counted(deleted, 'chunk')} deleted")
