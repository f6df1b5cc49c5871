"""Any model that the library sentence-transformers loads, on whatever processor it finds."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from importlib import import_module
from itertools import pairwise
from typing import Any, Final

from perdure.domain.errors import EmbedderRefused, TextRejected
from perdure.domain.packages import needed
from perdure.embedders.joining import joined, unit
from perdure.embedders.named import Named
from perdure.embedders.threaded import ThreadedEmbedder
from perdure.ports.embedder import Metered, Purpose

PROVIDER: Final = "sentence-transformers"
_SPECIAL: Final = 4
"""Tokens that a model may put around a text."""


class TransformerEmbedder(ThreadedEmbedder):
    """Loaded by `prepare`, which may download it.

    Raises:
        InvalidInput: the library is not installed.
    """

    def __init__(self, named: Named) -> None:
        super().__init__()
        with needed("this embedder needs", PROVIDER):
            self._library = import_module("sentence_transformers")
        self.named = named
        self.max_batch = named.batch

    @property
    def model(self) -> str:
        """For example ``sentence-transformers:BAAI/bge-small-en-v1.5:384``; loads the model."""
        return self.named.title(PROVIDER, self.dimension)

    @property
    def dimension(self) -> int:
        """Length of the vectors; loads the model."""
        return int(self.parts.get_sentence_embedding_dimension())

    async def prepare(self) -> None:
        """As `perdure.ports.embedder.MeteredEmbedder.prepare`."""
        await asyncio.to_thread(lambda: self.dimension)

    def work(self, texts: Sequence[str], purpose: Purpose) -> Metered:
        """Embed, in as many parts as it takes."""
        import numpy as np

        prefix = self.named.prefixes()[purpose == "query"]
        split = [self._split(text, prefix) for text in texts]
        parts = [prefix + part for mine in split for part, _ in mine]
        tokens = [count for mine in split for _, count in mine]
        vectors = self.parts.encode(parts, batch_size=self.max_batch, show_progress_bar=False)
        made = Metered(unit(np.asarray(vectors, dtype=np.float32)), tokens)
        return joined(made, [max(1, count) for count in tokens], [len(mine) for mine in split])

    def _split(self, text: str, prefix: str) -> list[tuple[str, int]]:
        """Cut a text into parts that the model reads whole (it would ignore the rest), each with its tokens."""
        tokenizer = self.parts.tokenizer
        around = len(tokenizer(prefix, add_special_tokens=False)["input_ids"]) + _SPECIAL
        window = max(1, int(self.parts.max_seq_length or 512) - around)
        found = tokenizer(text, add_special_tokens=False, truncation=False, return_offsets_mapping=True)
        starts = [start for start, _ in found["offset_mapping"]]
        if len(starts) > window and self.named.long == "refuse":
            raise TextRejected(f"a text has {len(starts)} tokens; {self.named.model} reads {window} at once")
        cuts = [0, *starts[window::window], len(text)]
        counts = [window] * (len(cuts) - 2) + [len(starts) - window * (len(cuts) - 2)]
        return [(text[a:b], count) for (a, b), count in zip(pairwise(cuts), counts, strict=True) if a < b]

    def load(self) -> Any:
        """Load the model."""
        try:
            return self._library.SentenceTransformer(self.named.model, truncate_dim=self.named.dimensions)
        except (OSError, ValueError) as error:
            raise EmbedderRefused(f"{self.named.model} cannot be loaded: {error}") from None
