"""A text that is too long for its model is embedded in parts; its vector is their mean."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING

from perdure.ports.embedder import Metered

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


def unit(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Scale each row to length 1; one without a direction stays as it is, to be found by whoever checks."""
    import numpy as np

    with np.errstate(all="ignore"):
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        return np.where(lengths > 0, vectors / lengths, vectors).astype(np.float32)


def joined(parts: Metered, weights: Sequence[int], counts: Sequence[int]) -> Metered:
    """Make one vector for each text out of those of its parts.

    Args:
        weights: of each part, for example its length.
        counts: how many parts each text has, in order.
    """
    import numpy as np

    starts = np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(np.intp)
    weighted = parts.vectors * np.asarray(weights, dtype=np.float32)[:, None]
    tokens = iter(parts.tokens)
    return Metered(
        unit(np.add.reduceat(weighted, starts, axis=0)), [sum(islice(tokens, count)) for count in counts]
    )
