"""What every page is and knows: who looks, at whose things, how pages are drawn, and what is refused."""

from __future__ import annotations

import hmac
import json
import logging
import secrets
from collections.abc import Callable, Coroutine
from datetime import datetime
from hashlib import blake2b
from typing import Annotated, Any, Final, cast
from urllib.parse import urlencode

from fastapi import Depends, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from fastapi.routing import APIRoute
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from starlette.datastructures import FormData, UploadFile

from perdure.app import App
from perdure.domain.access import Caller, Scope
from perdure.domain.errors import Forbidden, PerdureError, Unauthenticated
from perdure.problems import kind_of

log = logging.getLogger(__name__)

KEY, CSRF = "perdure_key", "perdure_csrf"
"""Cookies: the caller's key, and what his forms must bring back."""
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)


class View:
    """One request, after the door.

    Attributes:
        app: the open app. caller: who looks, with the tenant. form: what was posted.
    """

    def __init__(self, request: Request, caller: Caller, form: FormData | None = None) -> None:
        self.request, self.caller, self.form = request, caller, form or FormData()
        self.app = app_of(request)
        self.csrf = request.cookies.get(CSRF) or secrets.token_urlsafe(32)
        self._digest = ""

    @property
    def tenant(self) -> str:
        """Whose things are shown."""
        return self.caller.tenant

    def asked(self, name: str) -> str:
        """A query parameter, or a field of the form; empty if there is none."""
        value = self.form.get(name, self.request.query_params.get(name, ""))
        return "" if isinstance(value, UploadFile) else value.strip()

    def link(self, path: str, **query: Any) -> str:
        """The address of a page of this dashboard, for the same tenant."""
        asked = {"tenant": self.request.query_params.get("tenant", ""), **query}
        given = urlencode(
            {name: value for name, value in asked.items() if value not in ("", None, ())}, doseq=True
        )
        return f"{self.request.scope.get('root_path', '')}{path}{'?' if given else ''}{given}"

    def here(self, **query: Any) -> str:
        """The address of this page, with some parameters changed."""
        asked: dict[str, Any] = {}
        for name, value in self.request.query_params.multi_items():
            asked.setdefault(name, []).append(value)
        return self.link(self.request.scope["path"], **(asked | query))

    def digest(self, body: str) -> str:
        """What tells whether the live part of a page changed."""
        self._digest = blake2b(body.encode(), digest_size=8).hexdigest()
        return self._digest

    def show(self, template: str, status: int = 200, **values: Any) -> Response:
        """Draw a page; of a page that is looked at again and has not changed, nothing."""
        body = _PAGES.get_template(template).render(view=self, **values)
        if self._digest and self.request.query_params.get("seen") == self._digest:
            return Response(status_code=204)
        answer = HTMLResponse(body, status, {"Content-Security-Policy": _POLICY})
        if self.request.cookies.get(CSRF) != self.csrf:
            self.keep(answer, CSRF, self.csrf)
        return answer

    def go(self, path: str, **query: Any) -> Response:
        """Send the browser to another page, after a form."""
        return RedirectResponse(self.link(path, **query), 303)

    def keep(self, answer: Response, name: str, value: str) -> None:
        """Set a cookie that no script reads and no other site sends."""
        secure = self.request.url.scheme == "https"
        answer.set_cookie(name, value, httponly=True, samesite="strict", secure=secure)

    def check_form(self) -> None:
        """Refuse a form that is none of ours.

        Raises:
            Forbidden: it does not bring back what its page got.
        """
        if not hmac.compare_digest(self.asked("csrf"), self.request.cookies.get(CSRF, " ")):
            raise Forbidden(
                "the form is not from this dashboard, or its page is too old; load the page again"
            )


def app_of(request: Request) -> App:
    """The app that the server serves."""
    return cast(App, request.app.state.perdure)


class Page(APIRoute):
    """A page: lets its caller in, reads its form, and turns errors into pages."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The framework's handler, behind the door."""
        handle = super().get_route_handler()

        async def guarded(request: Request) -> Response:
            try:
                form = await request.form() if request.method == "POST" else None
                request.state.view = view = View(request, await _admit(request), form)
                if form is not None:
                    view.check_form()
                return await handle(request)
            except Unauthenticated as error:
                return _to_login(request, error)
            except PerdureError as error:
                return _refused(request, error)
            finally:
                await request.close()

        return guarded


async def _admit(request: Request) -> Caller:
    scope = Scope.READ if request.method == "GET" else Scope.WRITE
    tenant, key = request.query_params.get("tenant"), request.cookies.get(KEY)
    return await app_of(request).gate.admit(key, scope, tenant=tenant or None, actor="dashboard")


def _to_login(request: Request, error: Unauthenticated) -> Response:
    if "hx-request" in request.headers:
        return Response(status_code=204, headers={"HX-Refresh": "true"})
    view = View(request, Caller(tenant="-", scope=Scope.READ))
    said = str(error) if KEY in request.cookies else ""
    path = request.scope["path"] if request.method == "GET" else "/"
    return view.show("login.html", 401, said=said, next=path)


def _refused(request: Request, error: PerdureError) -> Response:
    kind = kind_of(error)
    status, said = kind.status, str(error)
    if status >= 500:  # the reason may name hosts and paths
        log.error("%s %s: %s", request.method, request.scope["path"], error)
        said = kind.about
    if "hx-request" in request.headers:
        return Response(status_code=status)  # what is on the page stays there
    view = View(request, Caller(tenant=request.query_params.get("tenant", ""), scope=Scope.READ))
    return view.show("error.html", status, said=said, number=status)


def _moment(moment: datetime | None) -> Markup:
    if moment is None:
        return Markup('<span class="muted">–</span>')
    return Markup('<time datetime="{}">{:%Y-%m-%d %H:%M:%S}</time>').format(moment.isoformat(), moment)


def _span(seconds: float) -> str:
    """A length of time, for people."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _pretty(value: object) -> str:
    text = json.dumps(value, indent=2, ensure_ascii=False, default=str)
    return text if len(text) <= 20_000 else f"{text[:20_000]}\n… ({len(text):,} characters in all)"


_PAGES: Final = Environment(
    loader=PackageLoader("perdure.dashboard"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_PAGES.filters.update(moment=_moment, span=_span, pretty=_pretty)


def _view(request: Request) -> View:
    return cast(View, request.state.view)


ViewOf = Annotated[View, Depends(_view)]
