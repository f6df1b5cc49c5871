"""The base of all immutable records, and the JSON they carry."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias, dataclass_transform

import msgspec

if TYPE_CHECKING:
    Json: TypeAlias = "None | bool | int | float | str | list[Json] | dict[str, Json]"
    """What a payload, a checkpoint or a result may hold."""
else:
    # msgspec resolves annotations when it decodes, and knows no recursive aliases.
    Json = Any


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(msgspec.field,))
class _RecordType(msgspec.StructMeta):
    """Makes every record frozen and keyword-only, without saying so at each class."""

    def __new__(
        mcls,
        name: str,
        bases: tuple[type, ...],
        namespace: dict[str, Any],
        **options: Any,
    ) -> _RecordType:
        options = {"frozen": True, "kw_only": True, **options}
        return super().__new__(mcls, name, bases, namespace, **options)


class Record(msgspec.Struct, metaclass=_RecordType):
    """An immutable value: compared by its fields, made anew by `msgspec.structs.replace`."""
