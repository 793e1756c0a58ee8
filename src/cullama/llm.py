"""Provides `LLM`: loads a model, and generates, streams, chats and inspects with it.

It computes nothing itself: engine/ schedules requests and runs the model, text/ turns their tokens
into text, chat/ renders conversations and inspect/ looks into the model. The last two are imported
when they are first used.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, overload

import numpy as np
from numpy.typing import NDArray

from .backends import operators_for
from .chat.format import ChatFormat
from .chat.format import template_variables as chat_variables
from .chat.messages import Message, Tools
from .chat.tools.functions import ToolChoice, ToolUse
from .checkpoint.checkpoint import Checkpoint
from .checkpoint.opening import open_checkpoint
from .checkpoint.weights import Progress, load_weights
from .engine.cache_size import choose_cache_tokens, choose_context_length
from .engine.client import EngineClient, GenerationRequest
from .engine.engine import Engine
from .engine.grammars import Grammars
from .engine.validation import DEFAULT_MAX_TOKENS
from .errors import ClosedError, NoTokenizerError, UsageError
from .files.cache_folder import cache_folder_or_none
from .hub import model_title, resolve_model
from .model.config import ModelConfig
from .model.llama import Llama
from .process.interrupts import INTERRUPTS
from .sampling.dialect import GENERATING, LOADING, explain_names
from .sampling.params import SamplingParams
from .text.completion import Completion
from .text.generation import Sample, Stream, submit
from .text.prompts import (
    Params,
    ParamsOfEach,
    Prompt,
    Prompts,
    as_list,
    asked_conversations,
    asked_prompts,
    checked_params,
    params_of_each,
)
from .text.scoring import Score, Scorer
from .text.submission import Submission
from .text.tokenizer import NO_TOKENS, Tokenizer

if TYPE_CHECKING:
    from .chat.session import Session
    from .chat.template import ChatTemplate
    from .inspect.diff import Comparison
    from .inspect.hook import Hook
    from .inspect.inside import Inside
    from .inspect.kernels.replacing import ReplaceableKernels
    from .inspect.token_layers import TokenLayers

_explained = explain_names(GENERATING, params=SamplingParams.__dataclass_fields__)


class LLM:
    """A loaded model.

    Args:
        model: a folder with safetensors, a GGUF file, a hub id ("owner/name", "owner/name:Q4_K_M",
            "owner/name@revision"; fetched if it is not in the hub's cache), an open checkpoint,
            or nothing for the default model.
        backend: "cpu", or "cpu:numpy", "cpu:avx2", … for one kind of its kernels; "cuda", or
            "cuda:1" for the second GPU; "emulated" for the GPU's kernels run on the CPU, slowly;
            "auto" takes a GPU that can be used, else the CPU, and `description` says why, where
            there is a driver.
        dtype: how weights and cache are stored: "float32", "float16", "bfloat16"; for weights on
            compiled CPU kernels also "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", with a float16 cache.
            "auto" is bfloat16 on a GPU; on the CPU each weight's type in its file, or float32
            with numpy.
        threads: for the CPU; None takes one for each physical core.
        context_length: the longest prompt and answer together, in tokens; None takes the
            model's own, up to 32,768.
        cache_tokens: how many tokens the KV cache holds, of all requests together; None takes 64
            contexts, or what fits a quarter of the memory that the machine, its container and
            `ulimit` allow (of which only what is used costs anything), or nine tenths of the
            GPU's free memory.
        deterministic: the same bits for a request whatever else is in its batches, however its
            prompt is chunked and whatever of it is cached; slower where there are many rows.
        keep_converted: keep the converted weights of GGUF files in the cache folder, so that
            they open in milliseconds the next time.
        progress: called with (done, total) while weights are read.
        download_progress: called with (done, total) bytes while a model is fetched.
        chat_template: a jinja2 file that takes the place of the checkpoint's own template, or
            "none": then a conversation is continued as text, line by line.
        template_variables: what the template is given besides the conversation, such as
            {"enable_thinking": False} for Qwen3.

    Raises:
        CullamaError: see `cullama.errors`.
    """

    @explain_names(LOADING)
    def __init__(
        self,
        model: str | os.PathLike[str] | Checkpoint | None = None,
        *,
        backend: str = "auto",
        dtype: str = "auto",
        threads: int | None = None,
        context_length: int | None = None,
        cache_tokens: int | None = None,
        deterministic: bool = False,
        keep_converted: bool = True,
        progress: Progress = lambda done, total: None,
        download_progress: Progress | None = None,
        chat_template: str | os.PathLike[str] | None = None,
        template_variables: Mapping[str, Any] | None = None,
    ) -> None:
        if not isinstance(model, Checkpoint):
            model = open_checkpoint(resolve_model(model, download_progress))
        self._open(model, context_length, chat_template, template_variables)
        config = model.config
        cache_root = cache_folder_or_none() if keep_converted else None
        folder = None if cache_root is None else cache_root / "converted"
        ops = operators_for(backend, dtype, threads, folder, deterministic)
        self.description = f"{self.name} · {model.format_name} · {ops.description}"
        try:
            weights = load_weights(model, ops, self.context_length, progress)
            tokens = choose_cache_tokens(config, self.context_length, cache_tokens, ops)
            cache = ops.cache(config, tokens)
            self._engine: EngineClient | None = Engine(
                Llama(config, weights, ops),
                cache,
                self.context_length,
                default_max_tokens=model.sampling_defaults.get("max_tokens", DEFAULT_MAX_TOKENS),
                grammars=self.grammars,
            )
        except BaseException:
            ops.close()
            raise

    @classmethod
    def in_front_of(
        cls,
        engine: EngineClient,
        checkpoint: Checkpoint,
        *,
        context_length: int | None = None,
        chat_template: str | os.PathLike[str] | None = None,
        template_variables: Mapping[str, Any] | None = None,
    ) -> LLM:
        """Return an LLM whose model an engine elsewhere runs, in another process for example.

        It reads the checkpoint's config, tokenizer and template, no weights, and touches no device.
        What looks into the model (`diff`, `inside`, `watch`) needs one that runs in this process.
        """
        llm = cls.__new__(cls)
        llm._open(checkpoint, context_length, chat_template, template_variables)
        llm.description = f"{llm.name} · {checkpoint.format_name}"
        llm._engine = engine
        return llm

    def _open(
        self,
        checkpoint: Checkpoint,
        context_length: int | None,
        chat_template: str | os.PathLike[str] | None,
        template_variables: Mapping[str, Any] | None,
    ) -> None:
        """Take over what needs no weights."""
        self._checkpoint, self.name = checkpoint, model_title(checkpoint.path)
        self._chosen_template, self._template_variables = chat_template, template_variables
        if chat_template not in (None, "none"):
            _ = self.chat_template  # so that a file that cannot be used is refused at once
        self.context_length = choose_context_length(checkpoint.config, context_length)

    @property
    def config(self) -> ModelConfig:
        """The model's shape and settings, as its files have them."""
        return self._checkpoint.config

    @property
    def sampling_defaults(self) -> Mapping[str, Any]:
        """What the model's files recommend, by the names of `SamplingParams`: from
        generation_config.json, or a GGUF's `general.sampling` metadata."""
        return self._checkpoint.sampling_defaults

    @cached_property
    def default_params(self) -> SamplingParams:
        """What generation uses where no params are given: `SamplingParams()` with what the model's
        files recommend in it. Params that are given count as they are, none is filled in:
        `replace(llm.default_params, temperature=0.2)` changes one.

        Its max_tokens is None, with which the engine takes the recommended length, or what the
        context has room for where that is less."""
        return SamplingParams.from_mapping({**self.sampling_defaults, "max_tokens": None})

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Converts between text and token ids.

        Raises:
            NoTokenizerError: the checkpoint came without one.
        """
        return Tokenizer(self._checkpoint.load_tokenizer())

    @cached_property
    def grammars(self) -> Grammars:
        """Compiles the forms of answers that `SamplingParams` asks for, and keeps them."""
        config = self.config
        return Grammars(
            lambda: self.tokenizer.tokenizer.to_str(), config.vocab_size, config.eos_ids
        )

    @cached_property
    def chat_template(self) -> ChatTemplate | None:
        """Renders a conversation for this model; None continues it as text.

        Raises:
            ChatTemplateError: the template cannot be used.
        """
        own = self._checkpoint.load_chat_template
        if self._chosen_template is None:
            return own()
        if self._chosen_template == "none":
            return None
        from .chat.template import ChatTemplate

        return ChatTemplate.from_file(
            Path(self._chosen_template), self._checkpoint.template_names()
        )

    @cached_property
    def chat_format(self) -> ChatFormat:
        """Converts messages to token ids."""
        if self.chat_template is None and self._chosen_template is None:
            logging.getLogger("cullama").warning(
                "%s has no chat template, as base models have none: "
                "what is said is continued as text, line by line",
                self.name,
            )
        return ChatFormat(
            self.chat_template, self.tokenizer, self.config.bos_id, self._template_variables
        )

    @property
    def longest_text(self) -> int:
        """How many tokens a prompt and its answer may have together: the context length, or the
        cache's size where that is less."""
        return self.client.capacity.max_length

    @overload  # a text is also a sequence of texts, as far as types can tell
    def generate(  # type: ignore[overload-overlap]
        self,
        prompts: str | list[int],
        params: Params = ...,
        *,
        priority: int = ...,
        allow_special: bool = ...,
        progress: bool = ...,
    ) -> Completion: ...
    @overload
    def generate(
        self,
        prompts: Prompts,
        params: ParamsOfEach = ...,
        *,
        priority: int = ...,
        allow_special: bool = ...,
        progress: bool = ...,
    ) -> list[Completion]: ...

    @_explained
    def generate(
        self,
        prompts: Any,
        params: ParamsOfEach = None,
        *,
        priority: int = 0,
        allow_special: bool = True,
        progress: bool = True,
    ) -> Any:
        """Continue a prompt, or several together.

        Args:
            prompts: a text or its token ids → a `Completion`; a list of those → a list, in order.
            params: the same for all prompts, or a list with those of each; None takes
                `default_params`.
            priority: each step is a head start of 64 places in the queue: 1 goes before up to 64
                requests that were submitted earlier; negative values let later requests pass.
            allow_special: read control tokens that a text spells as such; False keeps them text.
            progress: show a bar for a list that takes longer than a second, on a terminal's
                standard error or in a notebook; nowhere else.

        Raises:
            UsageError: an empty prompt, or ids outside the vocabulary; for a list, the error
                begins with the prompt's place in it: "prompts[3]: …".
            ContextLengthError: a prompt, with the answer asked for, is longer than the context.
        """
        return self._submit_prompts(prompts, params, priority, allow_special).completions(progress)

    @overload
    async def agenerate(  # type: ignore[overload-overlap]
        self,
        prompts: str | list[int],
        params: Params = ...,
        *,
        priority: int = ...,
        allow_special: bool = ...,
    ) -> Completion: ...
    @overload
    async def agenerate(
        self,
        prompts: Prompts,
        params: ParamsOfEach = ...,
        *,
        priority: int = ...,
        allow_special: bool = ...,
    ) -> list[Completion]: ...

    @_explained
    async def agenerate(
        self,
        prompts: Any,
        params: ParamsOfEach = None,
        *,
        priority: int = 0,
        allow_special: bool = True,
    ) -> Any:
        """As `generate`, in an event loop: `await llm.agenerate("Once")`; other tasks go on.

        Cancelling the task cancels its requests.
        """
        submission = self._submit_prompts(prompts, params, priority, allow_special)
        return await submission.completions_async()

    @_explained
    def stream(
        self,
        prompt: Prompt,
        params: SamplingParams | None = None,
        *,
        priority: int = 0,
        allow_special: bool = True,
    ) -> Stream:
        """Continue a prompt piece by piece: `for piece in llm.stream("Once"): …`, or `async for`.

        The arguments are those of `generate`.

        Raises:
            UsageError: as `generate`; and `n` above 1, which has no single stream.
        """
        params = checked_params(params, self.default_params)
        return self._stream(self._token_ids(prompt, allow_special), params, priority)

    @overload
    def chat(
        self,
        messages: Iterable[Message],
        params: Params = ...,
        *,
        priority: int = ...,
        progress: bool = ...,
        tools: Tools = ...,
        tool_choice: ToolChoice = ...,
        documents: Tools = ...,
        template_variables: Mapping[str, Any] | None = ...,
        continue_final_message: bool = ...,
    ) -> Completion: ...
    @overload
    def chat(
        self,
        messages: Iterable[Iterable[Message]],
        params: ParamsOfEach = ...,
        *,
        priority: int = ...,
        progress: bool = ...,
        tools: Tools = ...,
        tool_choice: ToolChoice = ...,
        documents: Tools = ...,
        template_variables: Mapping[str, Any] | None = ...,
        continue_final_message: bool = ...,
    ) -> list[Completion]: ...

    @_explained
    def chat(
        self,
        messages: Any,
        params: ParamsOfEach = None,
        *,
        priority: int = 0,
        progress: bool = True,
        tools: Tools = None,
        tool_choice: ToolChoice = "auto",
        documents: Tools = None,
        template_variables: Mapping[str, Any] | None = None,
        continue_final_message: bool = False,
    ) -> Any:
        """Answer the last message of a conversation: `[{"role": "user", "content": "Hi"}]`.

        Several conversations, a list of such lists, are answered together, as `generate` does it
        with prompts. Control tokens that are spelled in a message are encoded as plain text.
        `session()` keeps the messages for you.

        Args:
            messages: each has a role and a content, a text or a list of parts of type text;
                answers of the model may have tool_calls, and messages of the role "tool" results.
            tools: JSON schemas of the functions that the model may call; the completion's
                `message` has the calls. Those of `strict` ones are held to their schemas.
            tool_choice: "auto"; "none", as without tools; "required": the answer is calls alone,
                held to the schemas of their functions; or one function: {"type": "function",
                "function": {"name": "weather"}}, as in OpenAI's API.
            documents: objects with a title and a text that the model may cite.
            template_variables: what the template is given besides, for this call.
            continue_final_message: the last message is the beginning of the answer, a text: the
                completion is what follows it, as if the model had been stopped there.

        Raises:
            UsageError: no messages, or none that the model's template takes; tools or documents
                where the template has no place for them.
            ContextLengthError: the conversation, with the answer asked for, exceeds the context.
            ChatTemplateError: the model's template cannot be used.
        """
        variables = chat_variables(tools, documents, template_variables, tool_choice)
        use = self.chat_format.answers.tool_use(variables.get("tools"), tool_choice)
        return self._submit_chats(
            messages, params, priority, variables, continue_final_message, use
        ).completions(progress)

    @overload
    async def achat(
        self,
        messages: Iterable[Message],
        params: Params = ...,
        *,
        priority: int = ...,
        tools: Tools = ...,
        tool_choice: ToolChoice = ...,
        documents: Tools = ...,
        template_variables: Mapping[str, Any] | None = ...,
        continue_final_message: bool = ...,
    ) -> Completion: ...
    @overload
    async def achat(
        self,
        messages: Iterable[Iterable[Message]],
        params: ParamsOfEach = ...,
        *,
        priority: int = ...,
        tools: Tools = ...,
        tool_choice: ToolChoice = ...,
        documents: Tools = ...,
        template_variables: Mapping[str, Any] | None = ...,
        continue_final_message: bool = ...,
    ) -> list[Completion]: ...

    @_explained
    async def achat(
        self,
        messages: Any,
        params: ParamsOfEach = None,
        *,
        priority: int = 0,
        tools: Tools = None,
        tool_choice: ToolChoice = "auto",
        documents: Tools = None,
        template_variables: Mapping[str, Any] | None = None,
        continue_final_message: bool = False,
    ) -> Any:
        """As `chat`, in an event loop; other tasks go on."""
        variables = chat_variables(tools, documents, template_variables, tool_choice)
        use = self.chat_format.answers.tool_use(variables.get("tools"), tool_choice)
        chats = self._submit_chats(
            messages, params, priority, variables, continue_final_message, use
        )
        return await chats.completions_async()

    @_explained
    def stream_chat(
        self,
        messages: Iterable[Message],
        params: SamplingParams | None = None,
        *,
        priority: int = 0,
        tools: Tools = None,
        tool_choice: ToolChoice = "auto",
        documents: Tools = None,
        template_variables: Mapping[str, Any] | None = None,
        continue_final_message: bool = False,
    ) -> Stream:
        """Answer the last message piece by piece, as `stream` does; the rest is as for `chat`.

        The pieces are the text as it is written; the stream's `completion.message` has the calls in
        it, once they are complete, and reasoning apart.
        """
        variables = chat_variables(tools, documents, template_variables, tool_choice)
        format, params = self.chat_format, checked_params(params, self.default_params)
        prompt, begun = self._conversation(messages, variables, continue_final_message)
        use = format.answers.tool_use(variables.get("tools"), tool_choice)
        params = format.params_for(params, prompt, use)

        def finish(completion: Completion) -> Completion:
            message = format.answers.message(completion.text, prompt, begun, use)
            return replace(completion, message=message)

        return self._stream(prompt, params, priority, begun, format.answers.shown_tokens, finish)

    @_explained
    def session(
        self,
        system: str | None = None,
        params: SamplingParams | None = None,
        messages: Sequence[Message] = (),
        tools: Tools = None,
    ) -> Session:
        """Begin a conversation, which keeps its messages: `send`, `stream`, `undo`, `fork` …

        Args:
            tools: as for `chat`; calls are in the `message` of completions, and their results are
                sent by `send_results`.
        """
        from .chat.session import Session

        if params is not None:
            params = checked_params(params, self.default_params)
        return Session(self, system, params, messages, tools)

    def logits(self, prompt: Prompt) -> NDArray[np.float32]:
        """Return the logits after each token of a prompt: float32 [T, V]."""
        return self.client.logits(self._token_ids(prompt))

    @overload
    def score(self, prompt: str, continuation: str) -> Score: ...
    @overload
    def score(self, prompt: Any, continuation: Any) -> Any: ...

    def score(self, prompt: Any, continuation: Any) -> Any:
        """Return how likely the model finds a continuation, or several, together in batches.

        Args:
            prompt: a text or its token ids, or a list of those.
            continuation: what follows: a text or its token ids → a `Score`; a list → a list. For a
                list of prompts: one for all of them, or a list with one, or a list, for each.

        Texts are encoded together and split where the prompt alone ends. White space at the
        prompt's end counts as the continuation's. An empty prompt is the model's BOS.

        Raises:
            UsageError: a continuation without a token of its own; ids outside the vocabulary.
            ContextLengthError: both together are longer than the context, and one token.
        """
        return self.scorer.score(prompt, continuation)

    @property
    def scorer(self) -> Scorer:
        """Scores many pairs, with progress."""
        config = self.config
        return Scorer(self.client, lambda: self.tokenizer, config.bos_id, config.eos_ids)

    def diff(
        self,
        other: LLM,
        prompt: Prompt,
        *,
        batches: tuple[int, int] = (1, 1),
        chunks: tuple[int, int] = (0, 0),
        detail: bool = False,
        tolerance: float | None = None,
    ) -> Comparison:
        """Compare this model with another, or with itself in another setting, by operator.

        Args:
            other: this model in another type, on another backend or from another file; or `self`,
                to compare batches or chunks.
            prompt: a text or its token ids.
            batches: how many sequences go through each of the two with the prompt.
            chunks: how many tokens of the prompt each takes at a time; 0 takes all.
            detail: compare every operator; composite ones run as their smaller parts.
            tolerance: of relative errors; None takes that of the coarser of the storage types.

        Raises:
            UsageError: two models of different shapes or vocabularies; an empty prompt.
            ContextLengthError: a prompt longer than the context.
        """
        from .inspect.diff import compare, record, two_sides

        if not isinstance(other, LLM):
            raise UsageError(f"other is {other!r:.80}, expected an LLM")
        first, second = two_sides(self, other, batches, chunks)
        checked = prompt if isinstance(prompt, str) else self._token_ids(prompt)
        return compare(record(first, checked, detail), second, tolerance)

    def inside(self, prompt: Prompt, hook: Hook | None = None) -> Inside:
        """Return the hidden states of a prompt, its attention maps and the logit lens.

        Args:
            prompt: a text or its token ids, T of them.
            hook: as for `watch`; the rest of the model goes on with what it returns.

        Raises:
            UsageError: an empty prompt, or more than fits half the machine's memory.
            ContextLengthError: a prompt longer than the context.
        """
        from .inspect.inside import look_inside

        tokenizer = self._tokenizer_or_none(needed=False)
        return look_inside(self.engine, self._token_ids(prompt), tokenizer, hook)

    def token_layers(self, prompt: Prompt, token: int, count: int = 5) -> TokenLayers:
        """Return what each layer would have said in place of a token, and what it looked at.

        Args:
            prompt: the text before the token, or its token ids, T of them.
            token: the id of the token that was written, or that might have been.
            count: how many of each layer's likeliest tokens are returned.

        Raises:
            UsageError: an empty prompt, an id outside the vocabulary, a count out of range, or
                more than fits half the machine's memory.
            ContextLengthError: a prompt longer than the context.
        """
        from .inspect.token_layers import token_layers

        *_, layers = token_layers(self.engine, self._token_ids(prompt), token, count)
        assert layers is not None
        return layers

    def watch(self, prompt: Prompt, hook: Hook, *, detail: bool = False) -> NDArray[np.float32]:
        """Run a prompt and call a hook with the result of each operator, which it may replace.

        Args:
            prompt: a text or its token ids, T of them.
            hook: called as `hook(place, array)` in the order in which the operators run, with
                the layer, operator and operand of the call, and its result in float32 [T, …],
                which cannot be written to. It returns None, or numbers of the same shape for the
                model to go on with ("activation patching").
            detail: show every operator; composite ones run as their smaller parts.

        Returns:
            The logits after each token: float32 [T, V].

        Raises:
            UsageError: an empty prompt; a hook that is not callable, or returns another shape.
            ContextLengthError: a prompt longer than the context.
        """
        from .inspect.hook import watch

        return watch(self.engine, self._token_ids(prompt), hook, detail)

    @cached_property
    def kernels(self) -> ReplaceableKernels:
        """Replaces kernels of the running model: `llm.kernels.replace("rms_norm", source)`.

        A kernel is compiled, checked on random inputs, and shown beside the old one, before it is
        let in; `with llm.kernels.trying(…)` takes it out again.

        Raises:
            UsageError: the model runs in another process.
        """
        from .inspect.kernels.replacing import ReplaceableKernels

        return ReplaceableKernels(self.engine, self.config)

    def close(self) -> None:
        """Return the model's memory. Running requests end; any later use raises `ClosedError`."""
        if self._engine is not None:
            self._engine.close()
        self._engine = None

    free = close

    def __enter__(self) -> LLM:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        """Refuse to be copied or pickled, as `multiprocessing` does with what it sends."""
        raise UsageError(
            "an LLM cannot be copied or pickled: use this one from every thread, load it before a "
            "fork, or send the model's path and load it there with cullama.LLM(path)"
        )

    def __repr__(self) -> str:
        return f"LLM({self.description}{', closed' if self._engine is None else ''})"

    @property
    def client(self) -> EngineClient:
        """What takes the requests. Raises ClosedError."""
        if self._engine is None:
            raise ClosedError("this LLM was closed; make a new one to go on")
        return self._engine

    @property
    def engine(self) -> Engine:
        """The engine that runs the model in this process.

        Raises:
            ClosedError: the LLM was closed.
            UsageError: the model runs in another process.
        """
        engine = self.client
        if not isinstance(engine, Engine):
            raise UsageError("the model runs in another process, expected one in this process")
        return engine

    def _submit_prompts(
        self, prompts: Any, params: ParamsOfEach, priority: int, allow_special: bool
    ) -> Submission:
        def submit(prompt: Prompt, its_params: SamplingParams) -> list[Sample]:
            return self._submit(self._token_ids(prompt, allow_special), its_params, priority)

        asked = asked_prompts(prompts)
        return Submission(asked, params_of_each(params, asked, self.default_params), submit)

    def _submit_chats(
        self,
        messages: Any,
        params: ParamsOfEach,
        priority: int,
        variables: Mapping[str, Any],
        is_continued: bool,
        use: ToolUse | None,
    ) -> Submission:
        asked, format = asked_conversations(messages), self.chat_format
        prompts: list[tuple[list[int], list[int]]] = []

        def submit(conversation: Any, its_params: SamplingParams) -> list[Sample]:
            prompt, begun = self._conversation(conversation, variables, is_continued)
            prompts.append((prompt, begun))
            its_params = format.params_for(its_params, prompt, use)
            return self._submit(prompt, its_params, priority, begun, format.answers.shown_tokens)

        def finish(place: int, completion: Completion) -> Completion:
            message = format.answers.message(completion.text, *prompts[place], use)
            return replace(completion, message=message)

        params_of_all = params_of_each(params, asked, self.default_params)
        return Submission(asked, params_of_all, submit, finish)

    def _conversation(
        self, messages: Any, variables: Mapping[str, Any], is_continued: bool
    ) -> tuple[list[int], list[int]]:
        """Return the token ids of a conversation, and of the answer's beginning."""
        if is_continued:
            return self.chat_format.begin(messages, variables)
        return self.chat_format.prompt(messages, variables), []

    def _stream(
        self,
        prompt: list[int],
        params: SamplingParams,
        priority: int,
        begun: Sequence[int] = (),
        shown: Mapping[int, str] = NO_TOKENS,
        finish: Callable[[Completion], Completion] = lambda it: it,
    ) -> Stream:
        if params.n != 1:
            raise UsageError(f"n is {params.n}, expected 1 for a stream; use generate for more")
        with INTERRUPTS.deferred:  # a request without its stream could not be cancelled
            [sample] = self._submit(prompt, params, priority, begun, shown)
            return Stream(sample, finish=finish)

    def _submit(
        self,
        prompt: list[int],
        params: SamplingParams,
        priority: int,
        begun: Sequence[int] = (),
        shown: Mapping[int, str] = NO_TOKENS,
    ) -> list[Sample]:
        tokenizer = self._tokenizer_or_none(needed=bool(params.stop))
        request = GenerationRequest(prompt, params, priority, answer=begun)
        return submit(self.client, request, tokenizer, shown)

    def _token_ids(self, prompt: Prompt, allow_special: bool = True) -> list[int]:
        if isinstance(prompt, str):
            return self.tokenizer.encode_prompt(prompt, self.config.bos_id, allow_special)
        ids = as_list(prompt)
        if ids is None:
            raise UsageError(f"the prompt is {prompt!r:.80}, expected a text or token ids")
        return ids

    def _tokenizer_or_none(self, needed: bool) -> Tokenizer | None:
        try:
            return self.tokenizer
        except NoTokenizerError:
            if needed:
                raise
            return None
