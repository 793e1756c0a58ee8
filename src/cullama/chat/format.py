"""Turns a conversation into token ids: rendered by the model's chat template, then encoded.

Control tokens come from the template alone: a message that spells one is encoded as plain text.
Which ones there are is told by the tokenizer's flags and by what the template writes, because files
often have the flags wrong. What tools, documents and other variables spell is plain text, too. It
loads no model and keeps no history.
"""

from __future__ import annotations

import copy
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import CullamaError, UsageError
from ..sampling.params import SamplingParams
from ..text.control_tokens import END_NAMES, SHAPE
from ..text.prompts import as_list
from .escape import REPLACEMENT, SPLIT
from .message_form import PROBE, SAMPLE_CALL, SAMPLE_TOOL, MessageForm
from .messages import Message as Message
from .messages import Tools, checked_message, content_text, map_texts, plain_data
from .tools.answers import AnswerForm
from .tools.functions import ToolChoice, ToolUse
from .tools.syntax import Syntax, written_syntax
from .tools.thoughts import CLOSING

if TYPE_CHECKING:
    from ..text.tokenizer import Tokenizer
    from .template import ChatTemplate

# Stands before a text that is not the first of a prompt, which may decide on a space before it.
_BEFORE = "\ufdd1"

SPOKEN = ("content", "reasoning_content", "thinking")  # what an answer says itself

NO_VARIABLES: Mapping[str, Any] = MappingProxyType({})


class _ControlToken(NamedTuple):
    id: int
    strips_left: bool  # the tokenizer drops the white space before it
    strips_right: bool


class ChatFormat:
    """Renders and encodes conversations the way one model expects them.

    Without a template, as for base models, the messages are joined line by line, to be continued
    as text. `variables` are passed to the template along with the messages. A list of parts becomes
    one text for templates that take no list, and the other way round.
    """

    def __init__(
        self,
        template: ChatTemplate | None,
        tokenizer: Tokenizer,
        bos_id: int | None,
        variables: Mapping[str, Any] | None = None,
    ) -> None:
        self.template, self._tokenizer, self._bos_id = template, tokenizer, bos_id
        self._variables = variables or {}
        self._form = MessageForm(partial(self._render_sample, template))
        self._warned: set[str] = set()  # what a warning has named

    def write(
        self,
        messages: Sequence[Message],
        add_generation_prompt: bool = True,
        **variables: Any,
    ) -> str:
        """Render the conversation as one text for `encode`, with control tokens escaped that
        messages, tools and documents spell.

        Args:
            variables: `tools`, `documents` and further variables of the template; None counts as
                not given.

        Raises:
            UsageError: something that is not a message, or messages that the template refuses;
                tools or documents for a template that has no place for them.
            ChatTemplateError: the template fails, or does what templates may not do.
        """
        checked = [checked_message(it, f"message {index}") for index, it in enumerate(messages)]
        given = {name: value for name, value in variables.items() if value is not None}
        given = {**self._variables, **given}
        template, form = self.template, self._form
        if given.get("tools") and template is not None and template.for_tools is not None:
            template = template.for_tools
            form = self._form_for_tools
        self._check_known(given, template)
        if template is None:
            return "\n".join(map(self.escape_control_tokens, checked))
        escape = partial(map_texts, partial(_split, self._any_control_token))
        names = template.names  # such as bos_token, which is a control token
        escaped = {
            name: value if name in names else escape(plain_data(f"variable {name!r}", value))
            for name, value in given.items()
        }
        if "developer" not in template.source:  # a newer word for the system's role
            for message in checked:
                message["role"] = {"developer": "system"}.get(message["role"], message["role"])
        written = [self._escaped(form.adapt(message)) for message in checked]
        text = template.render(written, add_generation_prompt, **escaped)
        self._check_calls(written, text)
        return text

    def _check_calls(self, messages: Sequence[Message], text: str) -> None:
        """Warn of tool calls that the template leaves out."""
        calls = [call for message in messages for call in message.get("tool_calls") or []]
        functions = [call.get("function", call) for call in calls if isinstance(call, dict)]
        names = [it.get("name") for it in functions if isinstance(it, dict)]
        if any(isinstance(name, str) and name not in text for name in names):
            self._warn_once("tool_calls", "the chat template leaves out tool calls")

    def _check_known(self, variables: Mapping[str, Any], template: ChatTemplate | None) -> None:
        """Refuse tools and documents that the model would not see; warn of other variables."""
        source = template.source if template else ""
        for name in variables:
            if name in source:
                continue
            if name in ("tools", "documents"):
                has = "chat template has no place for them" if template else "model has no template"
                raise UsageError(
                    f"{name} are given, but the {has}; write them into a message, or use another "
                    "template: --template FILE, or chat_template="
                )
            self._warn_once(name, f"the chat template has no variable {name}: it changes nothing")

    def _warn_once(self, name: str, message: str) -> None:
        if name not in self._warned:
            self._warned.add(name)
            logging.getLogger("cullama").warning("%s", message)

    def _escaped(self, message: dict[str, Any]) -> dict[str, Any]:
        """Return a message whose texts, tool calls and all, spell no control token."""
        split, in_answer = (
            partial(_split, pattern)
            for pattern in (self._any_control_token, self._control_tokens_of(message))
        )
        escaped = {
            name: map_texts(in_answer if name in SPOKEN else split, value)
            for name, value in message.items()
        }
        role = message["role"]  # that templates compare
        return {**escaped, "role": role if role.isidentifier() else split(role)}

    def begin(
        self, messages: Any, variables: Mapping[str, Any] = NO_VARIABLES
    ) -> tuple[list[int], list[int]]:
        """Return a conversation whose last message is the beginning of an answer, as the token ids
        of the prompt and of that beginning.

        Args:
            variables: as of `write`.

        Raises:
            UsageError: as `prompt`; and no assistant message at the end, or one with more than a
                text.
        """
        conversation = as_list(messages) or [{}]
        *before, answer = [checked_message(message) for message in conversation]
        if answer["role"] != "assistant":
            raise UsageError(
                f"the last message is of the role {answer['role']!r:.80}, expected the "
                "assistant's, to be continued"
            )
        for name in {"tool_calls", *SPOKEN} - {"content"}:
            if answer.get(name):
                raise UsageError(f"the last message has {name}, expected only a text to continue")
        text = self._question(before, variables)
        prompt = self.encode(text)
        return prompt, self.encode_answer(answer, text, prompt)

    def encode_answer(self, answer: Message, prompt: str, prompt_ids: Sequence[int]) -> list[int]:
        """Return the token ids of an answer's text behind its prompt, a text from `write`."""
        text = self.escape_control_tokens(answer)
        ids, start = self.encode(prompt + text), len(prompt_ids)
        if ids[:start] != [*prompt_ids]:  # a token reaches from one into the other
            return self.encode_continuation(text)
        return ids[start:]

    def prompt(self, messages: Any, variables: Mapping[str, Any] = NO_VARIABLES) -> list[int]:
        """Return the token ids of a conversation whose last message is to be answered.

        Args:
            variables: as of `write`.

        Raises:
            UsageError: as `write`; and no messages, or none to answer.
        """
        return self.encode(self._question(messages, variables))

    def _question(self, messages: Any, variables: Mapping[str, Any]) -> str:
        """Render a conversation whose last message is to be answered. Raises as `prompt`."""
        conversation = as_list(messages)
        if not conversation:
            hint = "; for one question: session().send(text)" if isinstance(messages, str) else ""
            raise UsageError(
                f"the messages are {messages!r:.80}, expected a list of at least one, "
                f"each {{'role': …, 'content': …}}{hint}"
            )
        text = self.write(conversation, **variables)
        if conversation[-1].get("role") == "assistant":
            raise UsageError(
                "the last message is the assistant's, expected one to answer; "
                "continue_final_message has it continued"
            )
        return text

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a text from `write`, with one BOS where template and
        tokenizer would make two."""
        if self.template is None:
            return self._tokenizer.encode(text.replace(SPLIT, ""))
        ids = self.encode_continuation(text)
        return ids[1:] if ids[:2] == [self._bos_id] * 2 else ids

    def encode_continuation(self, text: str) -> list[int]:
        """Return the token ids of a rendered text, or of the part of one that starts with a
        control token. Adds no BOS."""
        if SPLIT not in text and not self._unmatched:
            ids = self._tokenizer.encode(text, add_special_tokens=False, allow_special=True)
            written = len(self._any_control_token.findall(text))
            # More of them: a normalizer makes one of letters that look alike, as NFKC does.
            if sum(index in self.control_ids for index in ids) <= written:
                return ids
        ids = []
        for index, piece in enumerate(self._split_at_control_tokens(text)):
            if piece in self._control_tokens:
                ids.append(self._control_tokens[piece].id)
            elif piece:
                ids += self._encode_plain(piece, is_first=index == 0)
        return ids

    def _encode_plain(self, text: str, is_first: bool) -> list[int]:
        """Return the token ids of a text without control tokens, whatever it spells."""
        before = "" if is_first else _BEFORE
        plain = before + text.replace(SPLIT, "")
        ids = self._plain_tokenizer.encode(plain, add_special_tokens=False)
        if not self.control_ids.isdisjoint(ids):  # the vocabulary merges letters to one
            parts = (before + text).split(SPLIT)
            encoded = (self._plain_tokenizer.encode(it, add_special_tokens=False) for it in parts)
            ids = [index for part in encoded for index in part]
        return ids if is_first else ids[1:]

    def escape_control_tokens(self, message: Message) -> str:
        """Return a message's text, with every control token it spells split by `SPLIT`."""
        return _split(self._control_tokens_of(message), content_text(message))

    def _control_tokens_of(self, message: Message) -> re.Pattern[str]:
        """Match what a message may not spell. Answers keep marks such as <think> that the template
        may write, too, and looks for."""
        is_answer = message["role"] == "assistant"
        return self._answers_control_token if is_answer else self._any_control_token

    def with_stop_tokens(self, params: SamplingParams) -> SamplingParams:
        """Return the parameters with the token that ends an assistant message as a stop token."""
        if params.ignore_eos or not self.stop_tokens:
            return params
        return replace(params, stop_token_ids=(*params.stop_token_ids, *self.stop_tokens))

    def params_for(
        self, params: SamplingParams, prompt: Sequence[int], use: ToolUse | None
    ) -> SamplingParams:
        """Return the parameters to answer a prompt with: with stop tokens, and held to the schemas
        of strict functions.

        Raises:
            UsageError: a schema that is not supported, or another form is asked for, too.
        """
        params = self.with_stop_tokens(params)
        grammar = self.answers.grammar(prompt, use) if use is not None else None
        return params if grammar is None else params.replace(grammar=grammar)

    def starts_with_control_token(self, text: str) -> bool:
        """Whether a rendered text starts with a control token that the template wrote."""
        return self._any_control_token.match(text) is not None

    @cached_property
    def stop_tokens(self) -> frozenset[int]:
        """The tokens that end an assistant message: the control token that the template writes
        behind one, and those known by name; often not among the EOS tokens of the model's config.
        Empty without a template."""
        if self.template is None:
            return frozenset()
        ends = END_NAMES & self._control_tokens.keys()
        behind = self._any_control_token.match(self._behind_answer.lstrip())
        return frozenset(
            self._control_tokens[it].id for it in (*ends, *([behind.group()] if behind else []))
        )

    @cached_property
    def end_texts(self) -> tuple[str, ...]:
        """The names of `stop_tokens`, the longest first."""
        names = map(self._tokenizer.tokenizer.id_to_token, self.stop_tokens)
        return tuple(sorted(filter(None, names), key=len, reverse=True))

    # --- what an answer consists of ------------------------------------------------------------

    @cached_property
    def answers(self) -> AnswerForm:
        """The form of the model's answers."""
        has_reasoning = self.template is not None and CLOSING in self.template.source
        tools = self._variables.get("tools")
        return AnswerForm(self._tokenizer, self._call_syntax(), has_reasoning, tools)

    def _call_syntax(self) -> Syntax | None:
        """Return how the model writes calls of functions; None where its template has no place for
        tools, or shows no calls that can be read."""
        template, form = self.template, self._form
        if template is not None and template.for_tools is not None:
            template, form = template.for_tools, self._form_for_tools
        render = partial(self._render_sample, template, add_generation_prompt=False)
        question = form.adapt({"role": "user", "content": "Hi"})
        name, tools = SAMPLE_CALL["function"]["name"], [SAMPLE_TOOL]
        offered = render([question], tools=tools)
        if name not in offered:
            return None

        def answer(offered: Any, calls: Sequence[Mapping[str, Any]]) -> str:
            message: dict[str, Any] = {"role": "assistant", "content": PROBE}
            if calls:
                functions = [{"name": name, "arguments": dict(each)} for each in calls]
                entries = [{**SAMPLE_CALL, "function": each} for each in functions]
                message |= {"content": "", "tool_calls": entries}
            return render([question, form.adapt(message)], tools=offered)

        # Some refuse calls of what is not offered.
        return written_syntax(
            partial(answer, None if answer(None, [{}]) else tools), PROBE, offered
        )

    # --- which tokens are control tokens -------------------------------------------------------

    @cached_property
    def _control_tokens(self) -> dict[str, _ControlToken]:
        """Special tokens, and whatever their flags: known end tokens, what the template writes."""
        unflagged = self._written | END_NAMES
        added = self._tokenizer.tokenizer.get_added_tokens_decoder()
        tokens = {
            token.content: _ControlToken(index, token.lstrip, token.rstrip)
            for index, token in added.items()
            if token.content and (token.special or token.content in unflagged)
        }
        for text in self._written - tokens.keys():
            index = self._tokenizer.tokenizer.token_to_id(text)
            assert index is not None, "what is written is in the vocabulary"
            tokens[text] = _ControlToken(index, False, False)
        return tokens

    @cached_property
    def _written(self) -> frozenset[str]:
        """The tokens of the vocabulary, in brackets, that the template writes around messages."""
        system, user = ({"role": role, "content": PROBE} for role in ("system", "user"))
        answer = {"role": "assistant", "content": PROBE}
        texts = [
            self._rendered([system, user, answer, user], True)
            or self._rendered([user, answer, user], True),
            self._rendered([user, answer], False),
        ]
        template = self.template and (self.template.for_tools or self.template)
        called = {**answer, "tool_calls": [SAMPLE_CALL]}
        result = {"role": "tool", "content": PROBE, "tool_call_id": SAMPLE_CALL["id"]}
        samples: list[list[Message]] = [[user], [user, answer, user], [user, called]]
        samples.append([user, called, result])
        for messages in samples:
            texts.append(self._render_sample(template, messages, tools=[SAMPLE_TOOL]))
        return self._tokens_in(*texts)

    @cached_property
    def _form_for_tools(self) -> MessageForm:
        template = self.template and self.template.for_tools
        return MessageForm(partial(self._render_sample, template))

    @cached_property
    def _behind_answer(self) -> str:
        """What the template writes behind an assistant message."""
        sample = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": PROBE}]
        return self._rendered(sample, False).rpartition(PROBE)[2]

    def _rendered(self, messages: Sequence[dict[str, Any]], add_generation_prompt: bool) -> str:
        """Render a sample in the form that the template takes."""
        adapted = list(map(self._form.adapt, messages))
        return self._render_sample(self.template, adapted, add_generation_prompt)

    def _render_sample(
        self,
        template: ChatTemplate | None,
        messages: Sequence[Message],
        add_generation_prompt: bool = True,
        **given: Any,
    ) -> str:
        """Render a sample; "" where the template refuses it, or needs variables."""
        if template is None:
            return ""
        try:
            return template.render(messages, add_generation_prompt, **{**self._variables, **given})
        except CullamaError:
            return ""

    def _tokens_in(self, *texts: str) -> frozenset[str]:
        token_to_id = self._tokenizer.tokenizer.token_to_id
        found = {it for text in texts for it in SHAPE.findall(text.replace(PROBE, "\n"))}
        return frozenset(text for text in found if token_to_id(text) is not None)

    @cached_property
    def control_ids(self) -> frozenset[int]:
        """The ids of all control tokens, whatever the files' flags say."""
        return frozenset(token.id for token in self._control_tokens.values())

    @cached_property
    def _unmatched(self) -> frozenset[str]:
        """The control tokens that the tokenizer itself does not find in a text."""
        added = self._tokenizer.tokenizer.get_added_tokens_decoder().values()
        return frozenset(self._control_tokens) - {token.content for token in added}

    @cached_property
    def _plain_tokenizer(self) -> Tokenizer:
        """A copy of the tokenizer for plain text: all control tokens are special in it, so that
        they are not matched, and `_BEFORE` is a token."""
        from tokenizers import AddedToken

        library = copy.deepcopy(self._tokenizer.tokenizer)
        library.add_special_tokens(
            [AddedToken(text, normalized=False) for text in self._control_tokens]
        )
        library.add_tokens([AddedToken(_BEFORE, normalized=False)])
        return type(self._tokenizer)(library)

    @cached_property
    def _any_control_token(self) -> re.Pattern[str]:
        return _any_of(self._control_tokens)

    @cached_property
    def _answers_control_token(self) -> re.Pattern[str]:
        """Matches the control tokens that an assistant message may not spell: not those that are
        no special token, and that the template writes neither around questions nor behind answers.
        """
        added = self._tokenizer.tokenizer.get_added_tokens_decoder().values()
        special = {it.content for it in added if it.special or it.content in END_NAMES}
        question = self._rendered([{"role": "user", "content": PROBE}], False)
        return _any_of(special | self._tokens_in(question, self._behind_answer))

    def _split_at_control_tokens(self, text: str) -> list[str]:
        """Return control tokens and the texts between them, stripped as the tokenizer would."""
        pieces = re.split(f"({self._any_control_token.pattern})", text)
        for index in range(1, len(pieces), 2):
            token = self._control_tokens[pieces[index]]
            if token.strips_left:
                pieces[index - 1] = pieces[index - 1].rstrip()
            if token.strips_right:
                pieces[index + 1] = pieces[index + 1].lstrip()
        return pieces


_EXAMPLES = {
    "tools": "JSON schemas: [{'type': 'function', 'function': {'name': …, 'parameters': …}}]",
    "documents": "objects: [{'title': …, 'text': …}]",
}


def template_variables(
    tools: Tools,
    documents: Tools,
    others: Mapping[str, Any] | None,
    tool_choice: ToolChoice = "auto",
) -> dict[str, Any]:
    """Return what a template is given besides the messages.

    Raises:
        UsageError: something that is no list of objects, or a name that is taken.
    """
    for name, given in (("tools", tools), ("documents", documents)):
        listed = [] if given is None else as_list(given)
        if listed is None or not all(isinstance(it, Mapping) for it in listed):
            raise UsageError(f"{name} is {given!r:.80}, expected a list of {_EXAMPLES[name]}")
    others = others or {}
    if taken := sorted({"messages", "add_generation_prompt", "tools", "documents"} & others.keys()):
        raise UsageError(f"template_variables has {taken[0]!r}, expected another name")
    tools = None if tool_choice == "none" else tools
    return {"tools": tools or None, "documents": documents or None, **others}


def _any_of(tokens: Iterable[str]) -> re.Pattern[str]:
    """Return a pattern for any of the tokens that is not split; for none, one without a match.

    A token that holds SPLIT itself is none of them: no message can spell it, and to split others
    would make it.
    """
    longest_first = sorted((it for it in tokens if it and SPLIT not in it), key=len, reverse=True)
    # A token of one character cannot be split inside; SPLIT behind it escapes it.
    return re.compile(f"(?:{'|'.join(map(re.escape, longest_first)) or '(?!)'})(?!{SPLIT})")


def _split(tokens: re.Pattern[str], text: str) -> str:
    """Return a text with `SPLIT` in each of the tokens that it spells."""
    text = text.replace(SPLIT, REPLACEMENT).replace(_BEFORE, REPLACEMENT)
    # Once is not enough where the end of one token is the start of another.
    while tokens.search(text):
        text = tokens.sub(lambda found: found.group()[0] + SPLIT + found.group()[1:], text)
    return text
