"""Forms of tool calls that parsers and grammars are tested with."""

from __future__ import annotations

from cullama.chat.tools.syntax import MarkedSyntax, ParameterMarks, PythonSyntax

NAMED = MarkedSyntax("[TOOL_CALLS]", "[ARGS]", again="[TOOL_CALLS]")
GLM = MarkedSyntax(
    "<tool_call>",
    "\n",
    "</tool_call>",
    "\n<tool_call>",
    parameter=ParameterMarks("<arg_key>", "</arg_key>\n<arg_value>", "</arg_value>\n"),
)
LFM = PythonSyntax("<|calls|>", "<|/calls|>")
OLMO = PythonSyntax("<calls>", "</calls>", is_list=False)
