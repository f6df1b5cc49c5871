"""What every command is and knows: whose jobs, in which store, said how; and how it gets at the application."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import click

from perdure.cli import output

if TYPE_CHECKING:
    from rich.console import RenderableType

    from perdure.app import App
    from perdure.bootstrap import JobService
    from perdure.cli.remote import Remote
    from perdure.settings import Settings

Function = Callable[..., Any]


@dataclass
class Call:
    """One call of the command line.

    Attributes:
        store: the URL that was given; None: the environment's, else the default.
        tenant: whose jobs and documents.
        actor: who acts, for the histories of jobs.
        json: data as JSON on stdout, and nothing else there.
        server: the URL of a running server, which takes the place of the store; None: there is none.
        key: the credential for it.
    """

    store: str | None = None
    server: str | None = field(default_factory=lambda: os.environ.get("PERDURE_SERVER") or None)
    key: str | None = field(default_factory=lambda: os.environ.get("PERDURE_KEY") or None)
    tenant: str = field(default_factory=lambda: os.environ.get("PERDURE_TENANT") or "default")
    actor: str = field(default_factory=lambda: os.environ.get("PERDURE_ACTOR") or "perdure cli")
    json: bool = False

    def settings(self, **overrides: Any) -> Settings:
        """The environment's settings with this call's store; `overrides` that are not None win."""
        from perdure.domain.errors import InvalidInput
        from perdure.settings import Settings

        if self.server:
            raise InvalidInput(
                "this command works on a store itself: run it where the store can be reached, without --server and PERDURE_SERVER, with --store"
            )
        return Settings.from_environ(os.environ, store=self.store, **overrides)

    def open(self, *, create: bool = False, **overrides: Any) -> App:
        """The application on this call's store, without a worker; a context manager.

        Args:
            create: make the store if there is none yet. Commands that only look do not: an empty store in
                the wrong folder would answer their question wrongly.
            overrides: fields of `Settings`; None leaves what the environment says.

        Raises:
            NotFound: there is no store yet.
            InvalidInput: the tenant's name, the URL or a setting does not fit.
        """
        if self.server:
            # It has what commands ask of an app, and says so of what else one asks.
            return cast("App", self._remote())
        import perdure

        return perdure.open(settings=self.checked(create=create, **overrides), worker=False)

    def open_jobs(self) -> AbstractAsyncContextManager[JobService]:
        """The jobs of this call's store alone; a context manager. Raises what `open` does."""
        if self.server:
            return cast("AbstractAsyncContextManager[JobService]", self._remote())
        from perdure import bootstrap

        return bootstrap.job_service(self.checked(create=False))

    def _remote(self) -> Remote:
        from perdure.cli.remote import Remote
        from perdure.domain import validation
        from perdure.domain.errors import InvalidInput

        output.show_log()
        if self.server is None or self.store is not None:
            raise InvalidInput("--store and --server are both given; leave one out")
        tenant = None if self.tenant == "default" else validation.name(self.tenant, "tenant")
        return Remote(self.server, self.key, tenant, self.actor)

    def checked(self, *, create: bool, **overrides: Any) -> Settings:
        """The settings that `open` opens with. Raises what it does."""
        from perdure.domain import validation

        output.show_log()
        validation.name(self.tenant, "tenant")
        settings = self.settings(**overrides)
        if not create:
            _require(settings.store)
        return settings

    def existing_store(self) -> str:
        """The URL of this call's store.

        Raises:
            NotFound: there is no store yet.
        """
        output.show_log()
        url = self.settings().store
        _require(url)
        return url

    def show(self, answer: object, *parts: RenderableType) -> None:
        """Write one thing: as a JSON document, or its `parts` for people."""
        if self.json:
            output.write_json(answer, indent=True)
        else:
            output.write(parts)

    def show_each(self, answers: Iterable[object], *parts: RenderableType) -> None:
        """Write several things: each as a line of JSON, or all of them as `parts` for people."""
        if self.json:
            for answer in answers:
                output.write_json(answer, indent=False)
        else:
            output.write(parts)


def command(
    *examples: str, name: str | None = None, group: click.Group | None = None
) -> Callable[[Function], click.Command]:
    """Make a function, also an asynchronous one, a command: called with the `Call` and the options, it returns the exit
    code, or None if all is well.

    Args:
        examples: lines for its help.
        name: default: the function's.
        group: that it becomes a part of.
    """

    def make(function: Function) -> click.Command:
        @functools.wraps(function)
        @click.pass_context
        def run(ctx: click.Context, /, **options: Any) -> int | None:
            outcome = function(ctx.ensure_object(Call), **options)
            if inspect.iscoroutine(outcome):
                import asyncio

                outcome = asyncio.run(outcome)
            code: int | None = outcome
            return code

        epilog = "\n".join(("\b", "Examples:", *(f"  {line}" for line in examples)))
        made = click.command(name or function.__name__, epilog=epilog)(call_options(run))
        if group is not None:
            group.add_command(made)
        return made

    return make


def call_options(function: Function) -> Function:
    """Give a command the options that all share. They may stand before or after the command's name."""
    shared = functools.partial(click.option, expose_value=False, callback=_keep, default=None)
    options = (
        shared(
            "--store",
            metavar="URL",
            help="Where jobs and chunks live: sqlite:///perdure.db (relative), sqlite:////abs/x.db, postgresql://…, memory: and others.",
        ),
        shared(
            "--server",
            metavar="URL",
            help="A running server in place of a store; its key is in PERDURE_KEY.",
        ),
        shared("--tenant", metavar="NAME", help="Whose jobs and documents."),
        shared("--json", is_flag=True, help="Data as JSON on stdout, messages on stderr."),
    )
    for option in reversed(options):
        function = option(function)
    return function


def _keep(ctx: click.Context, param: click.Parameter, value: str | bool | None) -> None:
    """Note what was given here; what was not given leaves what was said before the command's name."""
    call = ctx.ensure_object(Call)
    if value is not None and param.name is not None:
        setattr(call, param.name, value)


def _require(url: str) -> None:
    """Refuse a store that is not there: an empty one in the wrong folder would answer every question wrongly."""
    from perdure import bootstrap
    from perdure.domain.errors import NotFound

    if not bootstrap.exists(url):
        raise NotFound(
            f"there is no store at {url} yet (seen from {os.getcwd()}); 'perdure ingest PATH' makes "  # noqa: PTH109
            "it there. If yours lies elsewhere, name it with --store or PERDURE_STORE"
        )
