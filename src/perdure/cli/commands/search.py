"""`perdure search QUERY`"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import click
import msgspec
from rich.text import Text

from perdure import wire
from perdure.cli.call import Call, command
from perdure.cli.output import say
from perdure.cli.snippet import excerpt, place, query_words
from perdure.cli.text import printable
from perdure.domain.search import MAX_EFFORT, MAX_LIMIT, Hit

_COLUMNS = 100
_ROWS = 5


def _filter(_ctx: click.Context, _param: click.Parameter, value: str | None) -> dict[str, Any] | None:
    if value is None:
        return None
    try:
        return msgspec.json.decode(value, type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise click.BadParameter(f"""{error}; expected an object like '{{"lang": "en"}}'""") from None


@command(
    'perdure search "how do I request leave?"',
    'perdure search "parental leave" -n hr -l 3',
    """perdure search leave --filter '{"lang": "en", "year": {"gte": 2023}}'""",
    "perdure search leave --json | jq -r .document_id",
)
@click.argument("query")
@click.option("--namespace", "-n", default="default", show_default=True, help="Where to search.")
@click.option(
    "--limit", "-l", type=click.IntRange(1, MAX_LIMIT), default=5, show_default=True, help="At most so many."
)
@click.option(
    "--mode",
    type=click.Choice(["hybrid", "vector", "text"]),
    default="hybrid",
    show_default=True,
    help="By meaning and words, by meaning alone, by words alone.",
)
@click.option(
    "--effort",
    type=click.IntRange(1, MAX_EFFORT),
    help="How hard an approximate index looks: ef_search or probes.",
)
@click.option("--filter", "where", metavar="JSON", callback=_filter, help="Only where the metadata match.")
async def search(call: Call, query: str, **options: Any) -> None:
    """Find the passages that answer a question.

    Best first; scores compare passages of one answer only. With --json each passage is a line.
    """
    async with call.open() as app:
        hits = await app.search(query, tenant=call.tenant, **options)
    call.show_each(map(wire.HitLine.of, hits), *_lines(hits, query))
    if not hits:
        say(f"nothing found in namespace {options['namespace']!r}; 'perdure store info' shows what there is")


def _lines(hits: Sequence[Hit], query: str) -> Iterator[Text]:
    """Each hit: its rank, document, place and score, then the part of its text that matters most, and an empty line."""
    words = query_words(query)
    for rank, hit in enumerate(hits, 1):
        where = place(hit.chunk_metadata.get("heading"), hit.start, hit.end)
        score = (f"score {hit.score:.3f}", "cyan")
        yield Text.assemble(f"{rank}. ", (printable(hit.document_id), "bold"), f"  {where}  ", score)
        for row in excerpt(hit.chunk_text, words, columns=_COLUMNS - 3, rows=_ROWS):
            text = Text(f"   {row}")
            if words:
                text.highlight_regex(words, "bold yellow")
            yield text
        yield Text()
