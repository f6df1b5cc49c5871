"""Every benchmark: ``python -m bench`` lists them, ``python -m bench NAME …`` runs one (`make bench ARGS="NAME …"`)."""

from __future__ import annotations

import runpy
import sys

BENCHES = {
    "whole-way": ("bench.ingest.whole_way", "5,000 real documents through durable jobs, beside the parts"),
    "ingest-peers": (
        "bench.ingest.peers",
        "the whole way beside LangChain, CocoIndex, Haystack and LlamaIndex",
    ),
    "pipeline": ("bench.ingest.pipeline", "parsers, chunker, model and batching, each alone"),
    "minilm": ("bench.ingest.minilm", "how many texts a second MiniLM reads, in 32 bits and in eight"),
    "memory": ("bench.ingest.memory", "peak memory of the whole system while one large document is ingested"),
    "chunk-ids": ("bench.ingest.chunk_ids", "the same documents give the same chunk ids on two Pythons"),
    "jobs": ("bench.jobs.speed", "jobs on a store beside the bare driver, and beside other job systems"),
    "jobs-sustained": (
        "bench.jobs.sustained",
        "more worker processes, and many minutes at 0.7 of the drain rate",
    ),
    "reads": ("bench.jobs.reads", "reads and the drain at 1,000 and at 1,000,000 jobs"),
    "jobs-held": ("bench.jobs.held", "the drain on PostgreSQL while a transaction is held open for minutes"),
    "vectors": ("bench.search.sqlite_vectors", "the vector store beside raw SQLite, and search latency"),
    "search": (
        "bench.search.recall",
        "recall and latency over 100,000 real chunks, beside the same SQL by hand",
    ),
    "quality": (
        "bench.search.quality",
        "how well real questions find their answers, by meaning, words and both",
    ),
    "cache": (
        "bench.jobs.cache",
        "the age and the cost of answers from the cache, two replicas on one store",
    ),
    "chaos": (
        "bench.jobs.chaos",
        "a store's server killed again and again under load: nothing lost, nothing twice",
    ),
    "track": (
        "bench.jobs.tracking",
        "what tracking costs the work that it tracks, with the store up and down",
    ),
    "transfer": ("bench.jobs.transfer", "stores copied into others while workers run, and killed on the way"),
    "asking": ("bench.jobs.asking", "two race to answer each of 1,000 questions while workers are killed"),
    "rest": (
        "bench.rest.speed",
        "how long a call of the REST API takes under 200 clients, and what 1,000 listeners cost",
    ),
    "fuzz": (
        "bench.rest.fuzz",
        "Schemathesis over the whole REST API, with a key and without: no 5xx, every answer as described",
    ),
    "bad-provider": (
        "bench.ingest.bad_provider",
        "20,000 real chunks under a provider that throttles, breaks and refuses",
    ),
    "shared-limit": (
        "bench.ingest.shared_limit",
        "four worker processes that share one limit of a provider, for three minutes",
    ),
    "dashboard": (
        "bench.faces.dashboard",
        "the dashboard's pages with a million jobs, and how soon they show a change",
    ),
    "kill-versions": (
        "bench.ingest.kill_versions",
        "workers killed at any moment of a document of 5,000 chunks: no answer of two versions",
    ),
    "feeds": (
        "bench.ingest.feeds",
        "a changing folder, table or collection, followed by readers that are killed",
    ),
    "soak": ("bench.soak", "workers killed again and again: nothing lost, nothing doubled"),
}
DEFAULT = ("whole-way", "jobs", "vectors", "memory")


def main() -> int:
    """Run the benchmark that is named; with none, those that `make bench` stands for."""
    named, rest = sys.argv[1:2], sys.argv[2:]
    if named and named[0] not in BENCHES:
        print(f"perdure: no benchmark {named[0]!r}; there are:", file=sys.stderr)
        for name, (_, what) in BENCHES.items():
            print(f"  {name:12} {what}", file=sys.stderr)
        return 2
    for name in named or DEFAULT:
        module, what = BENCHES[name]
        print(f"# {name}: {what}", flush=True)
        sys.argv = [name, *rest]
        runpy.run_module(module, run_name="__main__")
    return 0


if __name__ == "__main__":
    sys.exit(main())
