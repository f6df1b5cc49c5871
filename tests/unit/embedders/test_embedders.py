from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest

from perdure.domain.errors import InvalidInput, PerdureError, TextRejected
from perdure.embedders import local
from perdure.embedders.hashing import HashingEmbedder
from perdure.embedders.local import LocalEmbedder
from perdure.ports.embedder import Embedder
from tests.unit.embedders.contract import TEXTS, EmbedderContract, run_python

LOCAL = LocalEmbedder()
"""Shared: loading it takes a moment."""


class TestLocal(EmbedderContract):
    construction = "from perdure.embedders.local import LocalEmbedder; embedder = LocalEmbedder()"

    @pytest.fixture
    def embedder(self) -> Embedder:
        return LOCAL

    def test_model_is_named_with_its_version(self) -> None:
        assert LocalEmbedder().model == "wordllama-0.4.0.post1:l2_supercat:256"

    @pytest.mark.slow  # importing the library is
    async def test_vectors_are_those_of_the_library(self, embedder: Embedder) -> None:
        # In another process: importing the library sets up logging.
        script = (
            "import sys, pathlib, wordllama\n"
            "folder = pathlib.Path(wordllama.__file__).parent\n"
            "model = wordllama.WordLlama.load(cache_dir=folder, disable_download=True)\n"
            f"sys.stdout.write(model.embed({TEXTS!r}, norm=True).tobytes().hex())"
        )
        theirs = np.frombuffer(bytes.fromhex(run_python(script)), dtype=np.float32).reshape(len(TEXTS), -1)
        assert await embedder.embed(TEXTS, "document") == pytest.approx(theirs, abs=1e-6)

    async def test_text_without_word_pieces_is_rejected(self, embedder: Embedder) -> None:
        with pytest.raises(TextRejected, match="no word piece"):
            await embedder.embed(["fine", ""], "document")

    async def test_too_large_a_batch_is_refused(self, embedder: Embedder) -> None:
        with pytest.raises(InvalidInput, match="at most 256"):
            await embedder.embed(["x"] * 257, "document")

    async def test_long_text_in_bites_has_the_vector_of_the_whole(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        text = "several word pieces, one after another. " * 30
        whole = await LOCAL.embed([text], "document")
        monkeypatch.setattr(local, "_TOKENS_AT_ONCE", 7)
        assert await LOCAL.embed([text], "document") == pytest.approx(whole, abs=1e-6)

    async def test_model_is_loaded_once_however_many_ask_at_first(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        loads = []
        find = local._package_folder

        def count() -> Path:
            loads.append(1)
            return find()

        monkeypatch.setattr(local, "_package_folder", count)
        embedder = LocalEmbedder()
        await asyncio.gather(*(embedder.embed(["text"], "query") for _ in range(4)))
        assert loads == [1]

    async def test_missing_model_says_what_to_install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(local, "_WEIGHTS", "weights/gone")
        with pytest.raises(PerdureError, match="pip install --force-reinstall wordllama=="):
            await LocalEmbedder().embed(["text"], "query")


class TestHashing(EmbedderContract):
    construction = "from perdure.embedders.hashing import HashingEmbedder; embedder = HashingEmbedder()"

    @pytest.fixture
    def embedder(self) -> Embedder:
        return HashingEmbedder()

    @pytest.mark.parametrize("dimension", [1, 2, 7, 1024])
    async def test_any_dimension(self, dimension: int) -> None:
        embedder = HashingEmbedder(dimension)
        vectors = await embedder.embed([*TEXTS, ""], "document")
        assert vectors.shape == (len(TEXTS) + 1, dimension)
        assert np.linalg.norm(vectors, axis=1) == pytest.approx(1.0, abs=1e-5)
        assert str(dimension) in embedder.model

    def test_impossible_dimension_is_refused(self) -> None:
        with pytest.raises(InvalidInput, match="expected 1 or more"):
            HashingEmbedder(0)

    async def test_case_and_punctuation_do_not_matter(self) -> None:
        one, other = await HashingEmbedder().embed(["Leave, please!", "leave please"], "document")
        assert np.array_equal(one, other)
