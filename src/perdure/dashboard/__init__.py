"""The pages for people: what jobs do, what documents there are, and what to do about both."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Response
from starlette.staticfiles import StaticFiles

from perdure.dashboard import documents, jobs, pages


class _Static(StaticFiles):
    """Styles and scripts; a browser may keep them for a while."""

    def file_response(self, *args: Any, **options: Any) -> Response:
        """As the framework's, kept for a minute."""
        answer = super().file_response(*args, **options)
        answer.headers["Cache-Control"] = "max-age=60"
        return answer


def install(api: FastAPI) -> None:
    """Give an application the pages, at `/` and beside its calls."""
    for router in (pages.router, jobs.router, documents.router):
        api.include_router(router, include_in_schema=False)
    api.mount("/static", _Static(packages=[("perdure.dashboard", "static")]))
