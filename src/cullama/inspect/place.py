"""Names the place of an operator call in the model. It holds no arrays and runs nothing."""

from __future__ import annotations

from dataclasses import dataclass

TABLES = ("embedding", "rope_table")  # operands of the `gather` calls before the first layer


@dataclass(frozen=True)
class Place:
    """Where in the model an operator is called."""

    layer: int | None  # None: before the first layer, or after the last
    operator: str
    operand: str = ""  # its weight or table, where the operator is called with several

    @property
    def section(self) -> str:
        """Part of the model: "embedding", "layer 0", "layer 1" … or "head"."""
        if self.layer is not None:
            return f"layer {self.layer}"
        return "embedding" if self.operand in TABLES else "head"

    @property
    def name(self) -> str:
        """Operator and operand, such as "linear qkv": unique within the section."""
        return f"{self.operator} {self.operand}".rstrip()

    def __str__(self) -> str:
        return f"{self.section} · {self.name}"
