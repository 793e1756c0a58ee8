"""Fields for the form of an answer: OpenAI's `response_format`, and ours for grammars and choices.

What a schema or a grammar may say is `sampling/constraint.py`'s to check.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

from ...sampling.constraint import MAX_CHOICES, MAX_TEXT_BYTES
from ..http.errors import ApiError

FORMS = ("json_schema", "json_object", "regex", "grammar", "choice")  # of SamplingParams

FormText = Annotated[str, Field(min_length=1, max_length=MAX_TEXT_BYTES)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class JsonSchemaFormat(_Strict):
    name: Annotated[str, Field(pattern="^[a-zA-Z0-9_-]{1,64}$")]
    description: Annotated[str, Field(max_length=MAX_TEXT_BYTES)] | None = None  # no-op
    schema_: Annotated[dict[str, JsonValue] | None, Field(alias="schema")] = None
    strict: bool | None = None  # no-op: every answer is held to its schema


class ResponseFormat(_Strict):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaFormat | None = None
    schema_: Annotated[dict[str, JsonValue] | None, Field(alias="schema")] = None  # llama.cpp's

    @model_validator(mode="after")
    def _check_schema(self) -> ResponseFormat:
        if (self.type == "json_schema") != (self.json_schema is not None):
            words = "json_schema is missing" if self.json_schema is None else "json_schema is given"
            raise ApiError(400, f"the type is {self.type!r}, and {words}", "response_format")
        if self.schema_ is not None and self.type != "json_object":
            words = f"the type is {self.type!r}, expected the schema in json_schema"
            raise ApiError(400, words, "response_format.schema")
        return self


class FormFields(_Strict):
    """At most one of them is given."""

    response_format: ResponseFormat | None = None
    # Ours
    regex: FormText | None = None
    grammar: FormText | None = None
    choice: Annotated[list[FormText], Field(min_length=1, max_length=MAX_CHOICES)] | None = None

    def form(self) -> dict[str, Any]:
        """Return the form of the answer as SamplingParams has it, if one is given."""
        given = {"regex": self.regex, "grammar": self.grammar, "choice": self.choice}
        form: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        asked = self.response_format
        if asked is not None and asked.json_schema is not None:
            form["json_schema"] = asked.json_schema.schema_ or {}
        elif asked is not None and asked.schema_ is not None:
            form["json_schema"] = asked.schema_
        elif asked is not None and asked.type == "json_object":
            form["json_object"] = True
        return form
