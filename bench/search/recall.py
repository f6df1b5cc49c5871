"""Search by meaning over 100,000 real chunks: recall against exact search, and latency beside the same SQL by hand.

    python -m bench.search.recall [--store postgresql|sqlite]… [--chunks 100000] [--questions 100] [--plot FILE.svg]

Chunks of Debian's documentation (perl-doc, python3.11-doc, postgresql-doc-15, linux-doc-6.1) with the bundled model's
vectors of 256 numbers, asked Perl's FAQ questions. `recall` is the share of the ten truly nearest that are found, by all
vectors in memory. Each question is asked of the store and of the database by hand, twice, in turn and on the same connection:
`p50`, `p95` and `by hand` (p50) in milliseconds; `ratio` is that of the medians over the quicker of the two.

* pgvector: each kind of index, over `ef_search` or `probes`, set for the connection; `effort` sets it for each search.
* with filters, over the index that is the default: by tenant (2% are another tenant's), by the document's package, and one that
  a hundredth passes; `hits` is the fewest that any question got of the ten it asked for.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final, NamedTuple

import apsw
import numpy as np
import numpy.typing as npt

from bench.search.corpus import PACKAGES, Corpus, corpus
from bench.search.plot import Point, svg
from perdure.domain.document import Document, Draft, EmbeddedChunk, make_chunk
from perdure.domain.search import Hit, SearchQuery, parse_filter
from perdure.ports.vector_store import VectorStore
from perdure.vectors.pgvector import PgvectorStore
from perdure.vectors.sqlite import SqliteVectorStore
from perdure.vectors.sqlite.schema import equip
from tests.servers.postgres import fresh_database, postgres_server

LIMIT: Final = 10
ROUNDS: Final = 2
PER_DOCUMENT: Final = 20
OTHERS: Final = 50
"""Of so many documents, one is another tenant's."""
EFFORTS: Final = {"hnsw": (40, 100, 200, 300, 400, 600), "ivfflat": (1, 5, 10, 20, 50)}
KINDS: Final = ("hnsw", "hnsw-half", "ivfflat", "ivfflat-half")
Ask = Callable[[int], Awaitable[Any]]


class Case(NamedTuple):
    """A way to narrow: what the query says, and which chunks it leaves."""

    name: str
    over: dict[str, Any]
    leaves: npt.NDArray[np.bool_]


class Field:
    """The chunks, who has them, and what is truly nearest."""

    def __init__(self, corpus: Corpus, questions: int) -> None:
        self.corpus = corpus
        self.questions = corpus.questions[:questions]
        self.documents = np.arange(len(corpus.texts)) // PER_DOCUMENT
        self.similar = self.questions @ corpus.vectors.T

    def cases(self) -> list[Case]:
        """No filter, and those that the page is about."""
        ours = self.documents % OTHERS != 0
        packages = np.array(self.corpus.sources)[self.documents * PER_DOCUMENT]
        where = [{"package": "perl-doc"}, {"hundredth": 7}]
        passed = [packages == PACKAGES.index("perl-doc"), self.documents % 100 == 7]
        return [
            Case("none", {}, ours),
            Case("tenant with 2%", {"tenant": "other"}, ~ours),
            *(
                Case(json.dumps(spec), {"where": parse_filter(spec)}, ours & mask)
                for spec, mask in zip(where, passed, strict=True)
            ),
        ]

    def recall(self, found: Sequence[list[Hit]], leaves: npt.NDArray[np.bool_]) -> float:
        """The share of the truly nearest that were found; equals of the last of them count."""
        shares = []
        for row, hits in zip(self.similar, found, strict=True):
            nearest = np.sort(row[leaves])[-LIMIT:]
            shares.append(sum(hit.score >= nearest[0] - 1e-5 for hit in hits) / len(nearest))
        return float(np.mean(shares))

    async def store(self, vectors: VectorStore) -> None:
        """Write all of it, some documents at once."""
        waiting = iter(range(int(self.documents[-1]) + 1))

        async def work() -> None:
            for number in waiting:
                draft, items = self._document(number)
                await vectors.begin(draft)
                await vectors.publish(draft, [item.chunk.chunk_id for item in items], last=items)

        await asyncio.gather(*(work() for _ in range(32)))

    def _document(self, number: int) -> tuple[Draft, list[EmbeddedChunk]]:
        first = number * PER_DOCUMENT
        document = Document(
            tenant="other" if number % OTHERS == 0 else "bench",
            namespace="docs",
            id=f"d{number}",
            version=1,
            content_hash=f"{number:064x}",
            ingestion_id="00000000-0000-7000-8000-000000000000",
            source_metadata={
                "package": PACKAGES[self.corpus.sources[first]],
                "hundredth": number % 100,
                "path": f"folder/{number}.html",
            },
        )
        texts = self.corpus.texts[first : first + PER_DOCUMENT]
        items = [
            EmbeddedChunk(
                chunk=make_chunk(document, "bench", index, text, 1000 * index, {"page": index}),
                vector=self.corpus.vectors[first + index].tobytes(),
            )
            for index, text in enumerate(texts)
        ]
        return Draft(document=document, epoch=1, model="bench", dimension=256, strategy="bench"), items

    def query(self, number: int, **over: Any) -> SearchQuery:
        """A question."""
        facts = {"tenant": "bench", "namespace": "docs", "vector": self.questions[number].tobytes(), **over}
        return SearchQuery(**facts, limit=LIMIT)

    async def beside(self, ours: Ask, by_hand: Ask | None, case: Case) -> dict[str, float]:
        """Ask each question of both, in turn, several times."""
        took: dict[str, list[list[float]]] = {}
        found = []
        for number in range(len(self.questions)):
            took_now: dict[str, list[float]] = {}
            for turn in range(ROUNDS):
                asks = [("ours", ours), *([("by hand", by_hand)] if by_hand else [])]
                for name, ask in asks if turn % 2 else reversed(asks):
                    begun = time.perf_counter()
                    answer = await ask(number)
                    took_now.setdefault(name, []).append(1000 * (time.perf_counter() - begun))
                    if name == "ours" and turn == 0:
                        found.append(answer)
            for name, times in took_now.items():
                took.setdefault(name, []).append(times)
        figures: dict[str, float] = {
            "recall": self.recall(found, case.leaves),
            "hits": min(len(hits) for hits in found),
        }
        for name, times_of in took.items():
            cuts = statistics.quantiles([each for times in times_of for each in times], n=20)
            p50, p95 = ("p50", "p95") if name == "ours" else ("by hand", "p95 by hand")
            figures |= {p50: cuts[9], p95: cuts[18]}
        if by_hand:
            least = {name: statistics.median(min(times) for times in took[name]) for name in took}
            figures["ratio"] = least["ours"] / least["by hand"]
        return {name: round(value, 4 if name == "recall" else 2) for name, value in figures.items()}


# --- pgvector -------------------------------------------------------------------------------------

BY_HAND = """
SELECT 1 - (c.embedding <=> $1::real[]::vector) AS score, d.document_id, d.version, d.ingestion_id, c.chunk_id, c.chunk_index,
       c.chunk_text, c.first, c.past, d.source_metadata, c.metadata
FROM perdure_vector_documents d JOIN perdure_vector_chunks c ON c.document = d.id AND c.edition = d.published
WHERE c.namespace = $2 AND c.dimension = 256 {condition}
ORDER BY (c.embedding::{type}(256)) <=> $1::real[]::{type}(256) LIMIT 10
"""
CONDITIONS = {
    '{"package": "perl-doc"}': "AND d.source_metadata->>'package' = 'perl-doc'",
    '{"hundredth": 7}': "AND (d.source_metadata->>'hundredth')::int = 7",
}


class Pgvector:
    """A store on one connection, which can be used by hand, too."""

    def __init__(self, url: str, field: Field, **options: object) -> None:
        more = "&".join(f"{name}={value}" for name, value in options.items())
        self.store = PgvectorStore(f"{url}?pool_size=1&{more}")
        self.field = field
        self.vectors = field.questions.tolist()

    async def by_hand(self, kind: str, condition: str = "") -> Ask:
        """The same SQL on the same connection."""
        raw = await self.store._database.run(_itself)
        tenant = "bench"
        [row] = await raw.fetch("SELECT id FROM perdure_vector_namespaces WHERE tenant = $1", tenant)
        type_ = "halfvec" if kind.endswith("half") else "vector"
        statement = BY_HAND.format(condition=condition, type=type_)
        return lambda number: raw.fetch(statement, self.vectors[number], row["id"])

    async def figures(self, kind: str, case: Case, effort: int | None = None) -> dict[str, float]:
        """Recall, and latency beside the SQL by hand."""
        hand = await self.by_hand(kind, CONDITIONS.get(case.name, ""))

        async def ours(number: int) -> list[Hit]:
            return await self.store.search(self.field.query(number, effort=effort, **case.over))

        for number in range(min(30, len(self.vectors))):
            await ours(number)
            await hand(number)
        return await self.field.beside(ours, None if "tenant" in case.over else hand, case)


async def _itself(connection: Any) -> Any:
    return connection._con


async def on_postgresql(field: Field, plot: Path | None) -> list[dict[str, Any]]:
    """All kinds of indexes, over all efforts; then the filters."""
    rows: list[dict[str, Any]] = []
    everything, *narrow = field.cases()

    def note(**facts: Any) -> None:
        rows.append({"store": "pgvector", **facts})
        print(json.dumps(rows[-1]), flush=True)

    async with AsyncExitStack() as stack:
        server = stack.enter_context(
            postgres_server(shared_buffers="1GB", maintenance_work_mem="1GB", max_wal_size="4GB")
        )
        url = await stack.enter_async_context(fresh_database(server.url))
        loading = PgvectorStore(url)
        await loading.setup()
        await field.store(loading)
        await loading._database.run(lambda connection: connection.execute("VACUUM ANALYZE", timeout=600))
        for kind in KINDS:
            begun = time.perf_counter()
            await loading.build_index("bench", "docs", kind)
            note(index=kind, built_in_seconds=round(time.perf_counter() - begun, 1))
            method = kind.partition("-")[0]
            option = {"hnsw": "ef_search", "ivfflat": "probes"}[method]
            for effort in EFFORTS[method]:
                opened = Pgvector(url, field, **{option: effort})
                note(index=kind, **{option: effort}, **await opened.figures(kind, everything))
                await opened.store.close()
            if kind == "hnsw":
                await on_default(url, field, [everything, *narrow], note)
        await loading.close()
    if plot:
        plot.write_text(svg(f"pgvector, {len(field.corpus.texts):,} × 256", _series(rows)))
    return rows


async def on_default(url: str, field: Field, cases: Sequence[Case], note: Callable[..., None]) -> None:
    """As a store is set up without options: with filters, and with an effort for each search."""
    opened = Pgvector(url, field)
    for case in cases:
        note(index="hnsw", filter=case.name, **await opened.figures("hnsw", case))
    note(index="hnsw", effort=400, **await opened.figures("hnsw", cases[0], effort=400))
    await opened.store.close()


def _series(rows: Sequence[dict[str, Any]]) -> dict[str, list[Point]]:
    found: dict[str, list[Point]] = {}
    for row in rows:
        setting = row.get("ef_search", row.get("probes"))
        if setting is not None:
            found.setdefault(row["index"], []).append(Point(row["p50"], row["recall"], str(setting)))
    return found


# --- SQLite ---------------------------------------------------------------------------------------

NEAREST = """
WITH near AS MATERIALIZED (
    SELECT rowid, distance FROM vector_embeddings_256
    WHERE embedding MATCH ? AND k = 10 AND namespace = (SELECT id FROM vector_namespaces WHERE tenant = ?) {within}
)
SELECT near.distance, d.document_id, d.version, d.ingestion_id, c.chunk_id, c.chunk_index, c.text, c.first, c.past,
       d.metadata, c.metadata
FROM near JOIN vector_chunks c ON c.id = near.rowid JOIN vector_documents d ON d.id = c.document
"""
WITHIN = {
    '{"package": "perl-doc"}': "json_extract(d.metadata, '$.package') = 'perl-doc'",
    '{"hundredth": 7}': "json_extract(d.metadata, '$.hundredth') = 7",
}
AMONG = (
    "AND rowid IN (SELECT c.id FROM vector_documents d JOIN vector_chunks c ON c.document = d.id WHERE {})"
)


async def on_sqlite(field: Field) -> list[dict[str, Any]]:
    """Exact search, with and without filters."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vectors.db"
        store = SqliteVectorStore(path)
        await store.setup()
        await field.store(store)
        connection = apsw.Connection(str(path))
        equip(connection)
        for case in field.cases():
            within = AMONG.format(WITHIN[case.name]) if case.name in WITHIN else ""
            statement, tenant = NEAREST.format(within=within), case.over.get("tenant", "bench")

            def run(number: int, statement: str = statement, tenant: str = tenant) -> list[Any]:
                vector = field.questions[number].tobytes()
                return connection.execute(statement, (vector, tenant)).fetchall()

            async def ours(number: int, case: Case = case) -> list[Hit]:
                return await store.search(field.query(number, **case.over))

            figures = await field.beside(ours, lambda number, run=run: asyncio.to_thread(run, number), case)  # type: ignore[misc]
            rows.append({"store": "sqlite-vec", "filter": case.name, **figures})
            print(json.dumps(rows[-1]), flush=True)
        connection.close()
        await store.close()
    return rows


# --- all of it ------------------------------------------------------------------------------------


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The figures as Markdown."""
    columns = (
        "store",
        "index",
        "filter",
        "ef_search",
        "probes",
        "effort",
        "recall",
        "hits",
        "p50",
        "p95",
        "by hand",
        "ratio",
    )
    measured = [row for row in rows if "p50" in row]
    shown = [column for column in columns if any(column in row for row in measured)]
    lines = [
        shown,
        ["---"] * len(shown),
        *([str(row.get(column, "")) for column in shown] for row in measured),
    ]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def main() -> None:
    """Measure, and print a table in the end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--store", action="append", choices=["postgresql", "sqlite"])
    parser.add_argument("--chunks", type=int, default=100_000)
    parser.add_argument("--questions", type=int, default=100)
    parser.add_argument("--plot", type=Path, help="where pgvector's plot goes")
    asked = parser.parse_args()
    field = Field(corpus(asked.chunks), asked.questions)
    rows = []
    for store in asked.store or ("postgresql", "sqlite"):
        rows += asyncio.run(on_postgresql(field, asked.plot) if store == "postgresql" else on_sqlite(field))
    print(table(rows))


if __name__ == "__main__":
    main()
