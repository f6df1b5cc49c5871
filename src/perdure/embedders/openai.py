"""Any server that speaks OpenAI's embeddings call: OpenAI itself, vLLM, TEI, LM Studio, LocalAI, Ollama …"""

from __future__ import annotations

from typing import Any, Final

from perdure.domain.record import Json
from perdure.embedders.remote import RemoteEmbedder

URL: Final = "https://api.openai.com/v1"


class OpenAIEmbedder(RemoteEmbedder):
    """``POST {url}/embeddings``."""

    provider = "openai"
    path = "/embeddings"

    def body(self, texts: list[str]) -> dict[str, Any]:
        """Write the request."""
        named = self.named
        asked: dict[str, Json] = {"model": named.model, "input": [*texts], "encoding_format": named.encoding}
        return asked if named.dimensions is None else asked | {"dimensions": named.dimensions}

    def rows(self, answer: dict[str, Any]) -> tuple[list[Any], Any]:
        """Read vectors in the order of their `index`, and the tokens of the prompt."""
        data = answer["data"]
        if data and all("index" in item for item in data):
            data = sorted(data, key=lambda item: int(item["index"]))
            if [item["index"] for item in data] != list(range(len(data))):
                raise ValueError("each index from 0 on must be there once")
        usage = answer.get("usage") or {}
        return [item["embedding"] for item in data], usage.get("prompt_tokens")
