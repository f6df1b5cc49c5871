"""Documents: in, listed, read, and found."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

from fastapi import APIRouter, Response
from starlette.datastructures import UploadFile

from perdure.dashboard.door import Page, ViewOf
from perdure.domain.document import DEFAULT_NAMESPACE
from perdure.domain.errors import InvalidInput, NotFound

router = APIRouter(route_class=Page)

ROWS: Final = 50
AROUND: Final = 20
"""Chunks of a document that are shown at once; of a hit, half before it."""
PIECE: Final = 1 << 20


@router.get("/documents")
async def listed(view: ViewOf) -> Response:
    """Documents of a namespace, and the form that brings more."""
    namespace = view.asked("namespace") or DEFAULT_NAMESPACE
    names = [found.name for found in await view.app.documents.namespaces(view.tenant)]
    found = await view.app.documents.documents(view.tenant, namespace, ROWS + 1, view.asked("cursor") or None)
    more = found[ROWS - 1].document.id if len(found) > ROWS else None
    return view.show(
        "documents.html", documents=found[:ROWS], more=more, namespace=namespace, namespaces=names
    )


@router.post("/documents")
async def upload(view: ViewOf) -> Response:
    """Take a file, or a text."""
    file, text = view.form.get("file"), view.asked("text")
    document_id, namespace = view.asked("document_id") or None, view.asked("namespace") or DEFAULT_NAMESPACE
    if isinstance(file, UploadFile) and file.filename:

        async def pieces() -> AsyncIterator[bytes]:
            while piece := await file.read(PIECE):
                yield piece

        job = await view.app.ingest_stream(
            pieces(),
            name=file.filename,
            document_id=document_id or file.filename,
            namespace=namespace,
            tenant=view.tenant,
            created_by=view.caller.actor,
        )
    elif text:
        job = await view.app.ingest_text(
            text,
            document_id=document_id,
            namespace=namespace,
            tenant=view.tenant,
            created_by=view.caller.actor,
        )
    else:
        raise InvalidInput("nothing was sent; choose a file or write a text")
    return view.go(f"/jobs/{job.id}")


@router.get("/documents/read")
async def read(view: ViewOf) -> Response:
    """Some chunks of a document, as searches know it."""
    namespace, document_id = view.asked("namespace") or DEFAULT_NAMESPACE, view.asked("id")
    at = int(view.asked("at")) if view.asked("at").isdecimal() else 0
    stored = await view.app.documents.document(view.tenant, namespace, document_id)
    if stored is None:
        raise NotFound(f"no document {document_id!r} in namespace {namespace!r} of tenant {view.tenant!r}")
    first = max(0, at - AROUND // 2) if view.asked("hit") else at
    chunks = await view.app.documents.chunks(view.tenant, namespace, document_id, AROUND, first - 1)
    return view.show(
        "document.html", stored=stored, chunks=chunks, namespace=namespace, first=first, around=AROUND
    )


@router.get("/search")
async def search(view: ViewOf) -> Response:
    """What answers a question, and where it stands."""
    namespace, asked = view.asked("namespace") or DEFAULT_NAMESPACE, view.asked("q")
    names = [found.name for found in await view.app.documents.namespaces(view.tenant)]
    hits = await view.app.search(asked, namespace=namespace, tenant=view.tenant, limit=10) if asked else []
    sizes: dict[str, int] = {}
    for document_id in {hit.document_id for hit in hits}:
        stored = await view.app.documents.document(view.tenant, namespace, document_id)
        sizes[document_id] = 0 if stored is None else stored.chunk_count
    return view.show(
        "search.html", hits=hits, sizes=sizes, namespace=namespace, namespaces=names, asked=asked
    )
