"""Models behind HTTP. What all such servers have in common: one call, its errors, and the check of its answer."""

from __future__ import annotations

import asyncio
import base64
import json
import random
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Final

from perdure.domain.errors import (
    EmbedderError,
    EmbedderRefused,
    EmbedderSpent,
    InvalidInput,
    RetryAfter,
    TextRejected,
)
from perdure.domain.text import cut
from perdure.embedders.joining import joined, unit
from perdure.embedders.named import Named
from perdure.ports.embedder import Gate, Metered, Purpose

if TYPE_CHECKING:
    import httpx
    import numpy as np
    import numpy.typing as npt

PROBE: Final = "perdure"
WAIT: Final = 1.0
"""Seconds, where a server asks to wait but does not say how long; twice as many each time, up to `LONGEST_WAIT`."""
LONGEST_WAIT: Final = 60.0
_SHORTEST: Final = 100
"""A text of fewer characters is not too long, whatever the server says."""
_TOO_LONG: Final = re.compile(
    r"context.length|too (long|large|many tokens)|exceed|maximum|longer than", re.IGNORECASE
)
_NOT_A_NUMBER: Final = "unsupported value: NaN"
"""What Ollama says, with status 500, when the model made a vector that is none."""


_SPENT: Final = re.compile(r"insufficient_quota|billing_hard_limit|billing_not_active")
"""Codes of OpenAI, and of servers like it, that come with status 429: to wait a while does not help."""


class _TooLong(TextRejected):
    """These texts are more than the server takes at once."""


class RemoteEmbedder(ABC):
    """An embedding model behind HTTP.

    Args:
        key: sent as a bearer token; empty: none is sent.
        gate: lets its requests through; None: nothing holds them up, and a failure is not tried again.
    """

    provider: ClassVar[str]
    path: ClassVar[str]

    def __init__(self, named: Named, key: str = "", gate: Gate | None = None) -> None:
        if not (key.isascii() and key.isprintable()):
            raise InvalidInput(f"the key for {named.url} holds characters that no key has; copy it again")
        self.max_batch = named.batch
        self.named = named
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._gate = gate
        self._dimension = 0
        self._refused = 0
        self._preparing = asyncio.Lock()

    @abstractmethod
    def body(self, texts: list[str]) -> dict[str, Any]:
        """Write the request."""

    @abstractmethod
    def rows(self, answer: dict[str, Any]) -> tuple[list[Any], Any]:
        """Read vectors, in order, and the sum of tokens (0 where it is not told); may raise KeyError or TypeError."""

    @property
    def model(self) -> str:
        """For example ``openai:text-embedding-3-small:1536``; known once prepared."""
        return self.named.title(self.provider, self.dimension)

    @property
    def dimension(self) -> int:
        """Length of the vectors; known once prepared."""
        if not self._dimension:
            raise InvalidInput(
                f"{self.named.model} was not asked for its dimension yet; await prepare() first"
            )
        return self._dimension

    async def prepare(self) -> None:
        """As `perdure.ports.embedder.MeteredEmbedder.prepare`: asks once, with a word that no model refuses."""
        async with self._preparing:
            if self._dimension:
                return
            try:
                vectors, _ = await self._call([PROBE])
            except TextRejected as error:
                raise EmbedderRefused(
                    f"{error}; as it refuses even one word, check model and options"
                ) from None
            dimension, wanted = vectors.shape[1], self.named.dimensions
            if wanted not in (None, dimension):
                raise EmbedderRefused(
                    f"{self._where} gave {dimension} dimensions though {wanted} were asked for; leave the option out"
                )
            self._dimension = dimension

    async def embed(self, texts: Sequence[str], purpose: Purpose) -> npt.NDArray[np.float32]:
        """As `perdure.ports.embedder.Embedder.embed`."""
        return (await self.embed_metered(texts, purpose)).vectors

    async def embed_metered(self, texts: Sequence[str], purpose: Purpose) -> Metered:
        """As `perdure.ports.embedder.MeteredEmbedder.embed_metered`."""
        if len(texts) > self.max_batch:
            raise InvalidInput(f"{len(texts)} texts in one call; expected at most {self.max_batch}")
        await self.prepare()
        prefix = self.named.prefixes()[purpose == "query"]
        split = [self._parts(text) for text in texts]
        parts = [part for mine in split for part in mine]
        bites = [
            await self._embed(parts[start : start + self.max_batch], prefix, purpose)
            for start in range(0, len(parts), self.max_batch)
        ]
        return bites[0] if len(parts) == len(texts) else _merged(bites, parts, [len(mine) for mine in split])

    async def close(self) -> None:
        """Close the connections; another call would open new ones."""
        client: httpx.AsyncClient | None = self.__dict__.pop("_client", None)
        if client is not None:
            await client.aclose()

    def _parts(self, text: str) -> list[str]:
        """Cut a text that is known to be too long, where it pauses."""
        limit = self.named.max_characters or len(text)
        if len(text) > limit and self.named.long == "refuse":
            raise TextRejected(
                f"the text has {len(text)} characters; {self.named.model} is given at most {limit}"
            )
        parts, start = list[str](), 0
        while start < len(text):
            end = cut(text, limit, start)
            parts.append(text[start:end])
            start = end
        return parts

    async def _embed(self, texts: list[str], prefix: str, purpose: Purpose) -> Metered:
        try:
            return await self._call([prefix + text for text in texts], purpose)
        except _TooLong:
            if len(texts) > 1 or self.named.long == "refuse" or len(texts[0]) < _SHORTEST:
                raise  # with others beside it, whoever asked finds out which one is to blame
        middle = cut(texts[0], (len(texts[0]) + 1) // 2)
        halves = [texts[0][:middle], texts[0][middle:]]
        return _merged([await self._embed([half], prefix, purpose) for half in halves], halves, [2])

    async def _call(self, texts: list[str], purpose: Purpose = "document") -> Metered:
        if self._gate is None:
            return await self._ask(texts)
        return await self._gate.run(texts, lambda: self._ask(texts), lambda: self._ask([PROBE]), purpose)

    async def _ask(self, texts: list[str]) -> Metered:
        import httpx

        try:
            response = await self._client.post(self.named.url + self.path, json=self.body(texts))
        except httpx.TimeoutException:
            raise EmbedderError(f"{self._where} did not answer within {self.named.timeout:g} s") from None
        except httpx.HTTPError as error:
            told = str(error) or type(error).__name__
            raise EmbedderError(f"{self._where} broke off: {told}; is the server running?") from None
        answer = self._judged(response)
        try:
            rows, total = self.rows(answer)
            vectors = [_vector(row) for row in rows]
            count = int(total or 0)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise EmbedderError(f"{self._where} gave an answer that cannot be read: {error!r}") from None
        return Metered(unit(self._stacked(vectors, len(texts))), _shares(count, texts))

    def _stacked(self, vectors: list[npt.NDArray[np.float32]], count: int) -> npt.NDArray[np.float32]:
        import numpy as np

        lengths = {vector.size for vector in vectors}
        if len(vectors) != count:
            raise EmbedderError(f"{self._where} gave {len(vectors)} vectors for {count} texts")
        if len(lengths) != 1 or lengths == {0} or self._dimension not in {0, *lengths}:
            expected = self._dimension or "one length"
            raise EmbedderError(
                f"{self._where} gave vectors of {sorted(lengths)} numbers; expected {expected}"
            )
        return np.stack(vectors)

    def _judged(self, response: httpx.Response) -> dict[str, Any]:
        """The gate: the answer, or one of our errors. A server may say 200 and mean an error."""
        try:
            answer = json.loads(response.content)
        except ValueError:
            answer = None
        wrong = _complaint(answer)
        if response.status_code == 200 and wrong is None and isinstance(answer, dict):
            self._refused = 0
            return answer
        told = str(wrong if wrong is not None else response.text)[:500] or "nothing more"
        status = response.status_code if response.status_code != 200 else _status(answer)
        what = f"{self._where} says {status}: {told}"
        wait = _wait(response.headers)
        if _NOT_A_NUMBER in told:
            raise TextRejected(what)
        match status:
            case 401 | 403:
                raise EmbedderRefused(
                    f"{what}; check the key (PERDURE_EMBEDDER_KEY, or OPENAI_API_KEY for OpenAI itself)"
                )
            case 413:
                raise _TooLong(what)
            case 400 | 422 | 500 if _TOO_LONG.search(told):
                raise _TooLong(what)
            case 400 | 422:
                raise TextRejected(what)
            case 402 | 429 if status == 402 or _SPENT.search(response.text):
                raise EmbedderSpent(
                    f"{what}; the account is used up: add credit, or raise its limit at the provider. Jobs wait, and go on by "
                    "themselves"
                )
            case 429:
                raise RetryAfter(self._backoff() if wait is None else wait, what)
            case 408 | 409 | 425:
                raise EmbedderError(what)
            case _ if status >= 500:
                raise EmbedderError(what) if wait is None else RetryAfter(wait, what, counts=True)
            case _:
                raise EmbedderRefused(f"{what}; check the model's name and the URL")

    def _backoff(self) -> float:
        """Seconds to wait, where the server does not say it: the longer, the more often it said so; never all alike."""
        self._refused += 1
        return min(LONGEST_WAIT, WAIT * 2.0 ** min(self._refused, 10)) * random.uniform(0.5, 1)  # noqa: S311

    @property
    def _where(self) -> str:
        return f"{self.named.model} at {self.named.url}"

    @cached_property
    def _client(self) -> httpx.AsyncClient:
        import httpx

        return httpx.AsyncClient(timeout=self.named.timeout, headers=self._headers)


def _vector(row: Any) -> npt.NDArray[np.float32]:
    """Read a vector, written as numbers or as base64 of little-endian float32."""
    import numpy as np

    if isinstance(row, str):
        return np.frombuffer(base64.b64decode(row, validate=True), dtype="<f4")
    vector = np.asarray(row, dtype=np.float32)
    if vector.ndim != 1:
        raise ValueError(f"a vector of shape {vector.shape}")
    return vector


def _merged(bites: list[Metered], parts: list[str], counts: list[int]) -> Metered:
    import numpy as np

    vectors = np.concatenate([bite.vectors for bite in bites])
    tokens = [count for bite in bites for count in bite.tokens]
    return joined(Metered(vectors, tokens), [len(part) for part in parts], counts)


def _shares(total: int, texts: list[str]) -> list[int]:
    """Spread a sum over texts by their lengths, so that the shares add up to it."""
    lengths = [len(text.encode()) for text in texts]
    whole, seen, given = sum(lengths), 0, 0
    shares = []
    for length in lengths:
        seen += length
        shares.append(total * seen // whole - given)
        given += shares[-1]
    return shares


def _complaint(answer: Any) -> Any:
    """What is wrong, where an answer says that something is."""
    if not isinstance(answer, dict):
        return None
    if answer.get("object") == "error":  # vLLM
        return answer.get("message", answer)
    error = answer.get("error")
    return error.get("message", error) if isinstance(error, dict) else error


def _status(answer: Any) -> int:
    """The status that an answer with 200 should have had."""
    error = answer.get("error", answer) if isinstance(answer, dict) else None
    code = error.get("code") if isinstance(error, dict) else None
    return int(str(code)) if str(code).isdecimal() and 400 <= int(str(code)) <= 599 else 500


def _wait(headers: httpx.Headers) -> float | None:
    """Seconds that the server asks to wait: given in seconds, or as a date on its own clock."""
    told = headers.get("retry-after", "")
    try:
        return max(0.0, float(told)) if float(told) < float("inf") else None
    except ValueError:
        pass
    try:
        until = parsedate_to_datetime(told)
        now = parsedate_to_datetime(headers["date"]) if "date" in headers else datetime.now(UTC)
        return max(0.0, (until - now).total_seconds())
    except (ValueError, TypeError):  # no date, or one without a time zone
        return None
