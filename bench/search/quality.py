"""How well questions find their answers: by meaning, by words, and by both, through the app's own search.

    python -m bench.search.quality [--store sqlite|postgresql]… [--set perl|postgresql]… [--embedder local] [--limit 10]

Two sets of real questions, whose answers people have written down:

* `perl`: the questions of Perl's FAQ (Debian's perl-doc). Each answer is a document of its own, without its question, among
  all other pages of perl-doc; where one of those repeats a question word for word, it is taken out there too.
* `postgresql`: the terms of PostgreSQL's book index (postgresql-doc-15), each with the pages that it leads to, a judgement
  for each pair, among all other pages of the book.

Judged as known items, by document: a hit is right where it comes from the document that is known to answer. MRR is the mean of
1 / rank of the first right one among ten hits (0 where there is none), recall the share of judgements with one.
"""

from __future__ import annotations

import argparse
import asyncio
import html
import json
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final, NamedTuple

import asyncpg
from selectolax.lexbor import LexborHTMLParser, LexborNode

import perdure
from bench.corpus import packages
from perdure.app import App, FileItem
from tests.servers.postgres import fresh_database, postgres_server

MODES: Final = ("vector", "text", "hybrid")


class Judgement(NamedTuple):
    """A question, and the document that is known to answer it."""

    query: str
    document: str


# --- Perl's FAQ -----------------------------------------------------------------------------------


def perl(folder: Path) -> list[Judgement]:
    """Write the documents into a folder; give the questions."""
    [package] = packages("perl-doc")
    sources = {page.stem: page.read_text(errors="replace") for page in sorted(package.rglob("*.pod"))}
    parts = {name: _questions(text) for name, text in sources.items() if re.fullmatch(r"perlfaq\d", name)}
    asked = {_plain(question) for answers in parts.values() for question, _ in answers}
    judgements = []
    for name, text in sources.items():
        for number, (question, answer) in enumerate(parts.get(name, ())):
            document = f"{name}-{number:02}.md"
            (folder / document).write_text(_without(asked, _markdown(answer)))
            judgements.append(Judgement(_plain(question), document))
        if name not in parts:
            (folder / f"{name}.md").write_text(_without(asked, _markdown(text)))
    return judgements


def _questions(pod: str) -> list[tuple[str, str]]:
    """The questions of a page, each with its answer."""
    pieces = re.split(r"^=head([12]) (.+?)\n\n", pod, flags=re.MULTILINE | re.DOTALL)[1:]
    triples = zip(pieces[::3], pieces[1::3], pieces[2::3], strict=True)
    return [(question, answer) for level, question, answer in triples if level == "2" and answer.strip()]


def _markdown(pod: str) -> str:
    """Pod with its headings and paragraphs, and without its codes."""
    kept = re.sub(r"^=(?:begin|for)\b.*?(?:^=end.*?)?\n\n", "", pod, flags=re.MULTILINE | re.DOTALL)
    kept = re.sub(r"^=head(\d) ", lambda head: "#" * int(head[1]) + " ", kept, flags=re.MULTILINE)
    kept = re.sub(r"^=item (?:\*\n\n)?", "- ", kept, flags=re.MULTILINE)
    kept = re.sub(r"^=\w+.*$", "", kept, flags=re.MULTILINE)
    return _codeless(kept)


def _codeless(text: str) -> str:
    text = re.sub(r"E<(\w+)>", lambda name: html.unescape(f"&{name[1]};"), re.sub(r"[XZ]<[^<>]*>", "", text))
    for _ in range(3):  # they nest
        text = re.sub(r"L<(?:([^<>|]*)\|)?([^<>]*)>", lambda link: link[1] or link[2], text)
        text = re.sub(r"[A-Z](?:<<+ (.*?) >>+|<([^<>]*)>)", lambda code: code[1] or code[2] or "", text)
    return text


def _plain(question: str) -> str:
    return " ".join(_codeless(question).split())


def _without(questions: set[str], text: str) -> str:
    """Take out what repeats a question word for word, however its lines are broken."""
    for question in questions:
        anyhow = r"\s+".join(map(re.escape, question.split()))
        text = re.sub(anyhow, "", text, flags=re.IGNORECASE)
    return text


# --- PostgreSQL's book index ----------------------------------------------------------------------


def postgresql(folder: Path) -> list[Judgement]:
    """Copy the pages into a folder; give the terms of the index."""
    [package] = packages("postgresql-doc-15")
    [index] = package.rglob("bookindex.html")
    for page in sorted(index.parent.glob("*.html")):
        if page != index:
            (folder / page.name).write_bytes(page.read_bytes())
    judgements = dict.fromkeys(
        judgement
        for outer in LexborHTMLParser(index.read_text()).css("div.indexdiv > dl")
        for judgement in _terms(outer, "")
    )
    return [each for each in judgements if (folder / each.document).exists()]


def _terms(entries: LexborNode, above: str) -> Iterator[Judgement]:
    """The terms of a list, each beside the one above it, with the pages that they lead to."""
    term = above
    for entry in entries.iter():
        if entry.tag == "dt":
            own = " ".join(entry.text(deep=False).replace(" , ", " ").split()).strip(" ,")
            term = f"{above} {own}".strip()
            for link in entry.css("a.indexterm"):
                yield Judgement(term, (link.attributes["href"] or "").partition("#")[0])
        for inner in entry.iter() if entry.tag == "dd" else ():
            yield from _terms(inner, term)


SETS: Final = {"perl": perl, "postgresql": postgresql}


# --- asking ---------------------------------------------------------------------------------------


async def ingest(app: App, folder: Path, namespace: str) -> int:
    """Ingest a folder's files; how many chunks there are."""
    items = [FileItem(path=path, document_id=path.name) for path in sorted(folder.iterdir())]
    await app.ingest_many(items, namespace=namespace)
    while (await app.jobs.stats("default")).unfinished:
        await asyncio.sleep(0.05)
    [space] = [each for each in await app.vectors.namespaces("default") if each.name == namespace]
    assert space.documents == len(items), space
    return space.chunks


async def judge(
    app: App, namespace: str, judgements: Sequence[Judgement], mode: str, limit: int
) -> dict[str, float]:
    """MRR and recall of a way to search."""
    found: dict[str, list[str]] = {}
    for query in {judgement.query for judgement in judgements}:
        hits = await app.search(query, namespace=namespace, mode=mode, limit=limit)
        found[query] = [hit.document_id for hit in hits]
    ranks = [
        found[query].index(document) + 1 if document in found[query] else 0 for query, document in judgements
    ]
    return {
        "mrr": round(sum(1 / rank for rank in ranks if rank) / len(ranks), 4),
        f"recall@{limit}": round(sum(1 for rank in ranks if rank) / len(ranks), 4),
    }


async def measure(store: str, name: str, embedder: str, limit: int) -> None:
    """Ask all questions of a set on one store, and print a line for each way to search."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        url = f"sqlite:///{folder / 'quality.db'}"
        if store == "postgresql":
            server = stack.enter_context(postgres_server(shared_buffers="512MB"))
            url = await stack.enter_async_context(fresh_database(server.url))
        (folder / name).mkdir()
        judgements = SETS[name](folder / name)
        app = await stack.enter_async_context(perdure.open(url, embedder=embedder))
        chunks = await ingest(app, folder / name, name)
        if store == "postgresql":  # as the server itself does, some time after a load
            connection = await asyncpg.connect(url)
            await connection.execute("ANALYZE")
            await connection.close()
        about = {
            "set": name,
            "store": store,
            "embedder": embedder,
            "judgements": len(judgements),
            "chunks": chunks,
        }
        for mode in MODES:
            figures = await judge(app, name, judgements, mode, limit)
            print(json.dumps({**about, "mode": mode, **figures}), flush=True)


def main() -> None:
    """Ask the questions on each store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--store", action="append", choices=["sqlite", "postgresql"])
    parser.add_argument("--set", action="append", choices=list(SETS))
    parser.add_argument("--embedder", default="local")
    parser.add_argument("--limit", type=int, default=10)
    asked = parser.parse_args()
    for name in asked.set or SETS:
        for store in asked.store or ("sqlite", "postgresql"):
            asyncio.run(measure(store, name, asked.embedder, asked.limit))


if __name__ == "__main__":
    main()
