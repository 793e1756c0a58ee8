"""The functions that a model may call, and whether it has to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

Choice: TypeAlias = Literal["auto", "required"]
ToolChoice: TypeAlias = Literal["auto", "none", "required"] | Mapping[str, Any]


@dataclass(frozen=True)
class FunctionTool:
    """A function that is offered.

    Attributes:
        parameters: a JSON schema of its arguments, an object; None for any arguments.
        strict: calls are held to the schema.
    """

    name: str
    description: str | None = None
    parameters: Mapping[str, Any] | None = None
    strict: bool = False

    def for_template(self) -> dict[str, Any]:
        """Return it as OpenAI's chat completions and chat templates have it."""
        function: dict[str, Any] = {"name": self.name}
        if self.description is not None:
            function["description"] = self.description
        # Templates expect parameters; a schema without properties is what OpenAI takes none for.
        function["parameters"] = dict(self.parameters or {"type": "object", "properties": {}})
        return {"type": "function", "function": function}

    @classmethod
    def of(cls, tool: Mapping[str, Any]) -> FunctionTool | None:
        """Return a function that is given as a JSON schema; None for a tool of another kind."""
        function = tool.get("function", tool)
        name = function.get("name") if isinstance(function, Mapping) else None
        if not isinstance(name, str):
            return None
        return cls(name, None, function.get("parameters"), function.get("strict") is True)


@dataclass(frozen=True)
class ToolUse:
    """The functions of one request.

    Attributes:
        functions: those that are offered.
        choice: whether one of them has to be called.
        named: the one that has to be called.
        allowed: those that may be called now, of the ones that the model is told of; None for all.
        is_parallel: several calls may be written in one answer.
    """

    functions: Sequence[FunctionTool]
    choice: Choice = "auto"
    named: str | None = None
    is_parallel: bool = True
    allowed: frozenset[str] | None = None

    @property
    def names(self) -> frozenset[str]:
        """The functions that may be called."""
        if self.named is not None:
            return frozenset({self.named})
        offered = frozenset(function.name for function in self.functions)
        return offered if self.allowed is None else offered & self.allowed

    @property
    def callable(self) -> list[FunctionTool]:
        return [it for it in self.functions if it.name in self.names]

    @property
    def is_constrained(self) -> bool:
        """Whether calls have to keep to the schemas of their functions, or to those allowed."""
        is_strict = any(function.strict for function in self.callable)
        return self.choice == "required" or is_strict or len(self.names) < len(self.functions)

    def for_template(self) -> list[dict[str, Any]]:
        return [function.for_template() for function in self.functions]
