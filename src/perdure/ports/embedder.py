"""What turns texts into vectors."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol, TypeAlias, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Purpose: TypeAlias = Literal["document", "query"]


class Embedder(Protocol):
    """One embedding model.

    One of your own (``python:…``) is taken for one that costs money, so that nothing is embedded before what was embedded
    is stored. Give it the attribute ``paid = False``, and the next batch is embedded meanwhile.
    """

    @property
    def model(self) -> str:
        """Names the model; vectors of different names are never compared."""
        ...

    @property
    def dimension(self) -> int:
        """Length of its vectors."""
        ...

    @property
    def max_batch(self) -> int:
        """Most texts that one call takes."""
        ...

    async def embed(self, texts: Sequence[str], purpose: Purpose) -> npt.NDArray[np.float32]:
        """Embed up to `max_batch` texts, none of them empty.

        Returns:
            float32 of shape (len(texts), dimension), in order, finite, each of length 1.

        Raises:
            TextRejected: a text among them will never be taken.
            EmbedderError: it failed in a way that may pass.
            EmbedderRefused: it will not work before somebody mends its settings.
            RetryAfter: the provider asked to wait.
        """
        ...

    async def close(self) -> None:
        """Free what the embedder holds. May be called twice."""
        ...


class Metered(NamedTuple):
    """Vectors, and what they cost.

    Attributes:
        vectors: as of `Embedder.embed`.
        tokens: for each text, how many the model read; shares of the sum where a provider tells no more, 0 where it
            tells nothing.
    """

    vectors: npt.NDArray[np.float32]
    tokens: list[int]


@runtime_checkable
class MeteredEmbedder(Protocol):
    """What an embedder has besides when it counts tokens, or must look before it knows its dimension."""

    async def prepare(self) -> None:
        """Find out what `model` and `dimension` are; called before either is read. May be called again.

        Raises:
            As `Embedder.embed`.
        """
        ...

    async def embed_metered(self, texts: Sequence[str], purpose: Purpose) -> Metered:
        """Embed as `Embedder.embed` does, and count."""
        ...


class Gate(Protocol):
    """What decides when a provider may be asked; an embedder behind HTTP goes through it with every request."""

    async def run(
        self,
        texts: Sequence[str],
        call: Callable[[], Awaitable[Metered]],
        probe: Callable[[], Awaitable[object]] | None = None,
        purpose: Purpose = "document",
    ) -> Metered:
        """Make the call once it may be made, and again where that may help.

        Args:
            texts: that the call sends.
            probe: makes a request that no provider in health refuses.

        Raises:
            RetryAfter: it would take too long until then.
            As the call.
        """
        ...


async def metered(embedder: Embedder, texts: Sequence[str], purpose: Purpose) -> Metered:
    """Embed, counting the tokens where the embedder can; else they are 0."""
    if isinstance(embedder, MeteredEmbedder):
        return await embedder.embed_metered(texts, purpose)
    return Metered(await embedder.embed(texts, purpose), [0] * len(texts))
