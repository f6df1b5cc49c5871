"""Where it is kept which generation of a namespace readers see, and how its documents are read."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Final

import msgspec
from msgspec.structs import replace

from perdure.domain.document import Chunk, Namespace, StoredDocument
from perdure.domain.generation import Generation, Lineage
from perdure.domain.value import Value
from perdure.ports.key_value import KeyValueStore
from perdure.ports.vector_store import VectorStore

SPACE: Final = "generations"
_PAGE: Final = 500


class Generations:
    """The lineages of all namespaces, as every replica sees them.

    Args:
        usual: the embedder of a namespace that was never moved.
    """

    def __init__(self, values: KeyValueStore, usual: str) -> None:
        self._values = values
        self._new = Lineage(current=Generation(number=1, embedder=usual))
        self._asking = asyncio.Lock()
        self._asked: set[str] = set()
        self._answer: asyncio.Task[Mapping[str, Value]] | None = None

    async def read(self, tenant: str, namespace: str) -> Lineage:
        """Where the namespace stands now: always the store's own answer. Who asks while others are being answered shares
        the next answer with all who do.
        """
        key = _key(tenant, namespace)
        self._asked.add(key)
        if self._answer is None:
            self._answer = asyncio.create_task(self._ask())
        return self._lineage((await asyncio.shield(self._answer)).get(key))[0]

    async def _ask(self) -> Mapping[str, Value]:
        async with self._asking:
            asked, self._asked, self._answer = self._asked, set(), None
            keys, found = list(asked), dict[str, Value]()
            for start in range(0, len(keys), _PAGE):
                found |= await self._values.read(SPACE, keys[start : start + _PAGE])
            return found

    async def current(self, tenant: str, namespace: str) -> str:
        """The vector store's name for what readers see."""
        return (await self.read(tenant, namespace)).current.name(namespace)

    async def change(
        self, tenant: str, namespace: str, decide: Callable[[Lineage], Lineage]
    ) -> tuple[Lineage, Lineage]:
        """Decide, write, and decide again where somebody else was faster; before and after."""
        while True:
            before, version = await self._versioned(tenant, namespace)
            after = decide(before)
            value = msgspec.to_builtins(after)
            if after == before or await self._values.write(
                SPACE, _key(tenant, namespace), value, expect=version
            ):
                return before, after

    async def moved(self, tenant: str) -> dict[str, Lineage]:
        """The tenant's namespaces that have, or had, more than one generation."""
        found: dict[str, Lineage] = {}
        after = _key(tenant, "")
        while page := await self._values.scan(SPACE, _PAGE, after):
            for value in page:
                owner, _, namespace = value.key.partition(" ")
                if owner != tenant:
                    return found
                found[namespace] = msgspec.convert(value.value, Lineage)
            after = page[-1].key
        return found

    async def _versioned(self, tenant: str, namespace: str) -> tuple[Lineage, int]:
        key = _key(tenant, namespace)
        return self._lineage((await self._values.read(SPACE, [key])).get(key))

    def _lineage(self, found: Value | None) -> tuple[Lineage, int]:
        return (self._new, 0) if found is None else (msgspec.convert(found.value, Lineage), found.version)


class Documents:
    """Documents as readers see them: of each namespace, its current generation."""

    def __init__(self, vectors: VectorStore, generations: Generations) -> None:
        self._vectors = vectors
        self._generations = generations

    async def document(self, tenant: str, namespace: str, document_id: str) -> StoredDocument | None:
        """See `VectorStore.document`."""
        name = await self._generations.current(tenant, namespace)
        found = await self._vectors.document(tenant, name, document_id)
        return None if found is None else _under(namespace, found)

    async def documents(
        self, tenant: str, namespace: str, limit: int, after: str | None = None
    ) -> list[StoredDocument]:
        """See `VectorStore.documents`."""
        name = await self._generations.current(tenant, namespace)
        found = await self._vectors.documents(tenant, name, limit, after)
        return [_under(namespace, one) for one in found]

    async def chunks(
        self, tenant: str, namespace: str, document_id: str, limit: int, after: int = -1
    ) -> list[Chunk]:
        """See `VectorStore.chunks`."""
        name = await self._generations.current(tenant, namespace)
        return await self._vectors.chunks(tenant, name, document_id, limit, after)

    async def namespaces(self, tenant: str) -> list[Namespace]:
        """See `VectorStore.namespaces`."""
        moved = await self._generations.moved(tenant)
        shown = {lineage.current.name(namespace): namespace for namespace, lineage in moved.items()}
        every = await self._vectors.namespaces(tenant)
        # Generations have names that no namespace can have.
        mine = [one for one in every if one.name in shown or (one.name not in moved and "~" not in one.name)]
        named = [replace(one, name=shown.get(one.name, one.name)) for one in mine]
        return sorted(named, key=lambda one: one.name)


def _key(tenant: str, namespace: str) -> str:
    return f"{tenant} {namespace}"


def _under(namespace: str, found: StoredDocument) -> StoredDocument:
    if found.document.namespace == namespace:
        return found
    return replace(found, document=replace(found.document, namespace=namespace))
