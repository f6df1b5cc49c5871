"""Which code runs a kind of job, and how it is called."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import msgspec

from perdure.domain import validation as check
from perdure.domain.errors import Fatal, InvalidInput, UnknownKind
from perdure.domain.record import Json, Record
from perdure.domain.retry import RetryPolicy
from perdure.domain.terms import Limit

MAX_FITTING = 1000


class Handler(Record):
    """The code for one kind.

    Attributes:
        call: ``async def (ctx, **payload)``, or a plain function, which then runs in a thread.
        retry: when a failed run is tried again.
        timeout: how long one run may take; None: as long as it likes.
        limit: how many may run at once, over all workers of the store; None: any number.
        fitting: payload keys that were found to fit; binding a signature costs more than a small job.
    """

    kind: str
    call: Callable[..., Any]
    retry: RetryPolicy
    signature: inspect.Signature
    timeout: timedelta | None = None
    limit: Limit | None = None
    asynchronous: bool = True
    fitting: set[tuple[str, ...]] = msgspec.field(default_factory=set)

    def fit(self, ctx: object, payload: dict[str, Json]) -> None:
        """Check that the payload fits the handler's parameters.

        Raises:
            Fatal: it does not; another attempt would not help.
        """
        keys = tuple(payload)
        if keys in self.fitting:
            return
        try:
            self.signature.bind(ctx, **payload)
        except TypeError as error:
            raise Fatal(
                f"the payload does not fit the handler of {self.kind!r}: {error}; it takes {self._takes()}"
            ) from None
        if len(self.fitting) < MAX_FITTING:
            self.fitting.add(keys)

    def _takes(self) -> str:
        """The parameters after the context, without their types."""
        own = list(self.signature.parameters.values())[1:]
        bare = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in own]
        return str(inspect.Signature(bare))


class Partial(Record):
    """Return it from a handler to end the job as `partial`.

    Attributes:
        result: as otherwise returned.
        message: what failed for good.
    """

    result: Json
    message: str


class Handlers:
    """The registry: kind → handler."""

    def __init__(self) -> None:
        self._by_kind: dict[str, Handler] = {}

    def register(
        self,
        kind: str,
        call: Callable[..., Any],
        *,
        retry: RetryPolicy | None = None,
        max_attempts: int | None = None,
        timeout: timedelta | None = None,
        limit: int | None = None,
        limit_per_tenant: int | None = None,
    ) -> Handler:
        """Let `call` run the jobs of `kind`.

        Args:
            max_attempts: short for a retry policy that differs in this alone.
            limit, limit_per_tenant: how many jobs of the kind may run at once, of all and of each tenant, over all workers
                of the store; every process that runs the kind should say the same.

        Raises:
            InvalidInput: the kind is no name, or has a handler already; a limit is below 1.
        """
        check.name(kind, "kind")
        if kind in self._by_kind:
            raise InvalidInput(f"kind {kind!r} has a handler already; choose another name")
        retry = retry or RetryPolicy()
        if max_attempts is not None:
            retry = msgspec.structs.replace(retry, max_attempts=max_attempts)
        handler = Handler(
            kind=kind,
            call=call,
            retry=retry,
            timeout=timeout,
            limit=None
            if limit is limit_per_tenant is None
            else Limit(total=limit, per_tenant=limit_per_tenant),
            asynchronous=inspect.iscoroutinefunction(call),
            signature=inspect.signature(call),
        )
        self._by_kind[kind] = handler
        return handler

    def remove(self, kind: str) -> None:
        """Forget the handler of `kind`."""
        del self._by_kind[kind]

    def get(self, kind: str) -> Handler:
        """The kind's handler.

        Raises:
            UnknownKind: there is none.
        """
        try:
            return self._by_kind[kind]
        except KeyError:
            known = ", ".join(sorted(self._by_kind)) or "none"
            raise UnknownKind(f"no handler is registered for kind {kind!r}; registered: {known}") from None

    def attempts_of(self, kind: str) -> int:
        """The kind's `max_attempts`; of an unknown kind the default's, since another process may know it."""
        handler = self._by_kind.get(kind)
        return (handler.retry if handler else RetryPolicy()).max_attempts

    def limits(self) -> dict[str, Limit]:
        """The limits by kind, of those that have one."""
        return {kind: handler.limit for kind, handler in self._by_kind.items() if handler.limit is not None}

    def limited(self, kind: str) -> bool:
        """Whether the kind has a limit."""
        handler = self._by_kind.get(kind)
        return handler is not None and handler.limit is not None

    def __iter__(self) -> Iterator[str]:
        return iter(tuple(self._by_kind))

    def __len__(self) -> int:
        return len(self._by_kind)
