"""Ollama's own batch call. Its OpenAI-compatible one cuts long texts without a word; this one can be told not to."""

from __future__ import annotations

from typing import Any, Final

from perdure.embedders.remote import RemoteEmbedder

URL: Final = "http://127.0.0.1:11434"


class OllamaEmbedder(RemoteEmbedder):
    """``POST {url}/api/embed``."""

    provider = "ollama"
    path = "/api/embed"

    def body(self, texts: list[str]) -> dict[str, Any]:
        """Write the request."""
        named = self.named
        asked = {"model": named.model, "input": texts, "truncate": False}
        return asked if named.dimensions is None else asked | {"dimensions": named.dimensions}

    def rows(self, answer: dict[str, Any]) -> tuple[list[Any], Any]:
        """Read vectors, and the tokens of the prompt."""
        return list(answer["embeddings"]), answer.get("prompt_eval_count")
