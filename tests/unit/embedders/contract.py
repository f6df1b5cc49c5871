"""What every embedder must do."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from perdure.ports.embedder import Embedder

TEXTS = [
    "How many days of leave do I have?",
    "short",
    "Ünïcode, 漢字 and 😀",
    "?!",
    "0",
    "a long text " * 400,
    "def claim(job): ...",
    "\u200b",
]


def run_python(script: str) -> str:
    """Run a script in a process of its own; what it wrote."""
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout


class EmbedderContract:
    @pytest.fixture
    def embedder(self) -> Embedder:
        raise NotImplementedError

    construction: str
    """Python source that makes the same embedder in another process, as the last line's `embedder`."""

    async def test_one_unit_vector_for_each_text(self, embedder: Embedder) -> None:
        vectors = await embedder.embed(TEXTS, "document")
        assert vectors.shape == (len(TEXTS), embedder.dimension)
        assert vectors.dtype == np.float32
        assert np.isfinite(vectors).all()
        assert np.linalg.norm(vectors, axis=1) == pytest.approx(1.0, abs=1e-5)

    async def test_vector_depends_neither_on_place_nor_on_neighbours(self, embedder: Embedder) -> None:
        together = await embedder.embed(TEXTS, "document")
        backwards = await embedder.embed(TEXTS[::-1], "document")
        alone = np.concatenate([await embedder.embed([text], "document") for text in TEXTS])
        assert np.array_equal(together, backwards[::-1])
        assert np.array_equal(together, alone)

    async def test_full_batch_is_taken(self, embedder: Embedder) -> None:
        texts = [f"text number {number}" for number in range(embedder.max_batch)]
        assert len(await embedder.embed(texts, "document")) == embedder.max_batch

    async def test_query_is_nearest_to_the_text_that_answers_it(self, embedder: Embedder) -> None:
        texts = [
            "The kitchen is cleaned every Friday.",
            "Every employee has thirty days of leave a year.",
            "Salaries are paid on the 25th of the month.",
        ]
        documents = await embedder.embed(texts, "document")
        (query,) = await embedder.embed(["how many days of leave in a year"], "query")
        assert int(np.argmax(documents @ query)) == 1

    async def test_other_processes_give_the_same_vectors(self, embedder: Embedder) -> None:
        script = (
            f"import asyncio, sys\n{self.construction}\n"
            f"vectors = asyncio.run(embedder.embed({TEXTS!r}, 'document'))\n"
            "sys.stdout.write(embedder.model + '\\n' + vectors.tobytes().hex())"
        )
        model, vectors = run_python(script).split("\n")
        assert model == embedder.model
        assert bytes.fromhex(vectors) == (await embedder.embed(TEXTS, "document")).tobytes()

    async def test_closing_twice_is_fine(self, embedder: Embedder) -> None:
        await embedder.embed(["text"], "document")
        await embedder.close()
        await embedder.close()
