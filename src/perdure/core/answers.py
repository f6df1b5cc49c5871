"""Which answers a question takes, where a JSON Schema says so."""

from __future__ import annotations

from typing import TYPE_CHECKING

from perdure.domain import validation as check
from perdure.domain.errors import InvalidInput
from perdure.domain.job import Question
from perdure.domain.record import Json

if TYPE_CHECKING:
    from jsonschema.protocols import Validator


def check_question(question: Question) -> None:
    """See that the question can be answered, and that its default would be accepted.

    Raises:
        InvalidInput: naming what does not fit.
    """
    if question.choices and question.schema is not None:
        raise InvalidInput(
            "a question takes choices or a schema, not both; {'enum': [...]} is a schema of choices"
        )
    if question.schema is not None:
        from jsonschema.exceptions import SchemaError

        check.json_value(question.schema, "schema")
        try:
            _validator(question.schema).check_schema(question.schema)
        except SchemaError as error:
            raise InvalidInput(
                f"the schema of the question is none: {error.json_path}: {error.message}"
            ) from None
    if question.deadline is None:
        return
    if question.choices and question.default not in question.choices:
        raise InvalidInput(
            f"the default {question.default!r} is none of the choices {', '.join(question.choices)}"
        )
    check_answer(question, question.default, "the default")


def check_answer(question: Question, answer: Json, what: str = "the answer") -> None:
    """See that an answer fits the question's schema.

    Raises:
        InvalidInput: naming the first place that does not, and what was expected there; or the schema refers to one
            that lies elsewhere.
    """
    if question.schema is None:
        return
    from jsonschema.exceptions import best_match
    from referencing.exceptions import Unresolvable

    try:
        fault = best_match(_validator(question.schema).iter_errors(answer))
    except Unresolvable as error:
        raise InvalidInput(
            f"the schema of the question refers to {error.ref!r}, which is not in it; nothing is fetched from elsewhere"
        ) from None
    if fault is not None:
        raise InvalidInput(
            f"{what} does not fit the question's schema: {fault.json_path}: {fault.message[:500]}"
        )


def _validator(schema: dict[str, Json]) -> Validator:
    """What checks by the schema, in the dialect that it names; it fetches no other from anywhere."""
    from jsonschema.validators import Draft202012Validator, validator_for
    from referencing.jsonschema import EMPTY_REGISTRY

    return validator_for(schema, default=Draft202012Validator)(schema, registry=EMPTY_REGISTRY)
