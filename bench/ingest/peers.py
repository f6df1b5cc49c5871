"""The whole way into PostgreSQL beside that of other ingestion systems, in one run and in turns.

    python3 -m venv build/peers && build/peers/bin/pip install -r bench/peers/ingest.txt
    python -m bench ingest-peers [--python build/peers/bin/python] [--documents 2500] [--workers 1] [--rounds 3]
                                [--only langchain,…]

Each round gives everybody in turn a new database on the same server, the same files, an embedder that costs nothing and
about 1,000 characters for a chunk: Perdure with its durable jobs and its index of words, LangChain's `index()`, CocoIndex,
Haystack, LlamaIndex, and the raw binary COPY of Perdure's rows: into the same tables, and into a bare one without words
or a second index. Then the same files again, unchanged (Haystack knows no unchanged documents; LlamaIndex remembers them
in this process's memory only). A JSON line for each, then the medians and Perdure's ratios.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any, Final

import asyncpg

from bench.corpus import documents
from bench.ingest.whole_way import CHECKOUT, FREE, OnPostgres, Rows, drafts
from perdure.cli.running import run_for_long
from tests.servers.postgres import fresh_database, postgres_server

PEERS: Final = ("langchain", "cocoindex", "haystack", "llamaindex")
KEEPERS: Final = ("langchain", "cocoindex")
"""Those that remember in a database or a file what is unchanged."""


async def peer(python: Path, name: str, server: str, folder: Path) -> dict[str, float]:
    """Seconds of a peer's first and second passes, and its chunks."""
    async with fresh_database(server) as url:
        connection = await asyncpg.connect(url)
        await connection.execute("CREATE EXTENSION vector")
        await connection.close()
        script = CHECKOUT / "bench" / "peers" / "ingest.py"
        with tempfile.TemporaryDirectory() as state:
            command, env = [str(each) for each in (python, script, name, url, folder)], os.environ.copy()
            env["COCOINDEX_DB"] = state
            printed: bytes = await asyncio.to_thread(lambda: subprocess.check_output(command, env=env))
        took: dict[str, float] = json.loads(printed.splitlines()[-1])
        return took


async def one_round(
    python: Path, names: list[str], ground: OnPostgres, rows: Rows
) -> dict[str, dict[str, float]]:
    ours = await ground.whole_way(FREE)
    taken = {"perdure": {"first": ours.published, "unchanged": ours.unchanged, "chunks": ours.chunks}}
    for name in names:
        taken[name] = await peer(python, name, ground.url, ground.folder)
    raw = await ground.raw(rows)
    count = sum(len(items) for _, items in rows)
    taken["copy"] = {"first": raw["raw_insert"], "chunks": count}
    taken["bare copy"] = {"first": raw["raw_bare"], "chunks": count}
    return taken


def told(name: str, took: dict[str, float], count: int) -> dict[str, Any]:
    rates: dict[str, Any] = {"bench": "ingest-peers", "of": name, "chunks": round(took["chunks"])}
    rates["chunks_per_second"] = round(took["chunks"] / took["first"])
    if "unchanged" in took:
        rates["unchanged_documents_per_second"] = round(count / took["unchanged"])
    return rates


def ratios(middle: dict[str, dict[str, Any]]) -> dict[str, Any]:
    ours, speed, again = middle["perdure"], "chunks_per_second", "unchanged_documents_per_second"
    found: dict[str, Any] = {
        "of_the_copy": round(ours[speed] / middle["copy"][speed], 2),
        "of_the_bare_copy": round(ours[speed] / middle["bare copy"][speed], 2),
    }
    if names := [name for name in PEERS if name in middle]:
        best = max(names, key=lambda name: float(middle[name][speed]))
        found |= {"best_peer": best, "times_the_best_peer": round(ours[speed] / middle[best][speed], 1)}
    if names := [name for name in KEEPERS if name in middle]:
        best = max(names, key=lambda name: float(middle[name][again]))
        found |= {"best_unchanged": best, "times_unchanged": round(ours[again] / middle[best][again], 1)}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--python", type=Path, default=CHECKOUT / "build" / "peers" / "bin" / "python")
    parser.add_argument("--documents", type=int, default=2500)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=1, help="processes of Perdure")
    parser.add_argument("--only", default=",".join(PEERS), help="the peers, separated by commas")
    given = parser.parse_args()
    names = [name for name in given.only.split(",") if name]
    if names and not given.python.exists():
        sys.exit(f"{given.python} is not there; make it as the beginning of bench/peers/ingest.txt says")
    texts = documents(given.documents)
    rows = drafts(texts)
    rounds = defaultdict[str, list[dict[str, float]]](list)
    with (
        postgres_server(shared_buffers="512MB", max_wal_size="4GB") as server,
        tempfile.TemporaryDirectory() as name,
    ):
        folder = Path(name)
        for number, text in enumerate(texts):
            (folder / f"{number:05}.txt").write_text(text)
        ground = OnPostgres(folder, server.url, given.workers)
        for turn in range(given.rounds):
            for who, took in run_for_long(one_round(given.python, names, ground, rows)).items():
                rounds[who].append(took)
                print(json.dumps({"round": turn + 1, **told(who, took, len(texts))}), flush=True)
    middle = {}
    for who, all_of_it in rounds.items():
        medians = {key: statistics.median(took[key] for took in all_of_it) for key in all_of_it[0]}
        middle[who] = told(who, medians, len(texts))
        print(json.dumps({"median_of": given.rounds, **middle[who]}))
    print(json.dumps({"bench": "ingest-peers", "documents": len(texts), **ratios(middle)}))


if __name__ == "__main__":
    main()
