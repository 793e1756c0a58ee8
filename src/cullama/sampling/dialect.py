"""Answers names of other libraries with those used here: max_new_tokens, here it is max_tokens.

Users come from transformers, vLLM, llama.cpp and ollama. A keyword that does not exist is refused
with the name that it has here, or else with the nearest one. The names are those of parameters, of
options of `LLM`, and of arguments of its methods; the command line answers for itself.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from functools import wraps
from types import MappingProxyType
from typing import ParamSpec, TypeVar

from ..errors import UnknownOptionError

P = ParamSpec("P")
R = TypeVar("R")

# A name elsewhere → its name here, or what to do instead.
SAMPLING = MappingProxyType(
    {
        "max_new_tokens": "max_tokens",
        "max_completion_tokens": "max_tokens",
        "max_gen_len": "max_tokens",
        "max_length": "max_tokens, which does not count the prompt",
        "n_predict": "max_tokens",
        "num_predict": "max_tokens",
        "temp": "temperature",
        "do_sample": "temperature; 0 always takes the likeliest token",
        "greedy": "temperature=0",
        "repeat_penalty": "repetition_penalty",
        "penalty_repeat": "repetition_penalty",
        "random_seed": "seed",
        "stop_strings": "stop",
        "stop_sequences": "stop",
        "stop_words": "stop",
        "eos_token_id": "stop_token_ids, besides the model's own end tokens",
        "include_stop_str_in_output": "include_stop",
        "top_logprobs": "logprobs",
        "response_format": "json_schema, or json_object=True",
        "structured_outputs": "json_schema, regex, grammar or choice",
        "guided_json": "json_schema",
        "guided_regex": "regex",
        "guided_grammar": "grammar",
        "guided_choice": "choice",
        "n_probs": "logprobs",
        "num_return_sequences": "n",
        "best_of": "n, which returns all of them",
        "suppress_tokens": "logit_bias={token id: -math.inf}",
        "bad_words_ids": "logit_bias={token id: -math.inf}",
        "min_tokens": "logit_bias={end token id: -math.inf}, or ignore_eos with max_tokens",
        "min_new_tokens": "logit_bias={end token id: -math.inf}, or ignore_eos with max_tokens",
    }
)
LOADING = MappingProxyType(
    {
        "model_path": "model",
        "model_name": "model",
        "model_id": "model",
        "repo_id": "model",
        "pretrained_model_name_or_path": "model",
        "path": "model",
        "filename": 'model="owner/name:file.gguf"',
        "revision": 'model="owner/name@revision"',
        "device": "backend",
        "device_map": "backend",
        "n_gpu_layers": 'backend="cuda", which takes all layers',
        "main_gpu": 'backend="cuda:1"',
        "torch_dtype": "dtype",
        "quantization": 'dtype="q8_0" and others, or a GGUF file',
        "load_in_8bit": 'dtype="q8_0"',
        "load_in_4bit": 'dtype="q4_0"',
        "n_threads": "threads",
        "num_threads": "threads",
        "n_ctx": "context_length",
        "num_ctx": "context_length",
        "ctx_size": "context_length",
        "max_model_len": "context_length",
        "max_seq_len": "context_length",
        "gpu_memory_utilization": "cache_tokens; a GPU's free memory is used where it is left out",
        "kv_cache_memory_bytes": "cache_tokens",
        "seed": "SamplingParams(seed=…)",
        "chat_format": "chat_template",
        "tensor_parallel_size": "left out: a model runs on one device",
        "pipeline_parallel_size": "left out: a model runs on one device",
        "trust_remote_code": "left out: no code of model files is ever run",
        "enable_prefix_caching": "left out: it is always on",
        "enable_chunked_prefill": "left out: it is always on",
        "tokenizer": "left out: it comes from the model's files",
        "verbose": 'left out: logging.getLogger("cullama") says what happens',
    }
)
GENERATING = MappingProxyType(
    {
        "sampling_params": "params",
        "use_tqdm": "progress",
        "prompt": "prompts, or the first argument",
        "prompt_token_ids": "prompts, or the first argument",
        "input_ids": "prompts, or the first argument",
        "inputs": "prompts, or the first argument",
        "conversation": "messages, or the first argument",
        "stream": "llm.stream(…) or llm.stream_chat(…)",
    }
)


def explain_names(
    elsewhere: Mapping[str, str], params: Collection[str] = ()
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorate a function: refuse keywords that it does not have with a name that it has.

    Args:
        elsewhere: names of other libraries.
        params: what belongs into SamplingParams rather than into a call.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        known = [name for name in inspect.signature(function).parameters if name != "self"]

        @wraps(function)
        def checked(*args: P.args, **options: P.kwargs) -> R:
            for name in options:
                if name not in known:
                    raise UnknownOptionError(_answer(name, known, elsewhere, params))
            return function(*args, **options)

        return checked

    return decorate


def _answer(
    name: str, known: Collection[str], elsewhere: Mapping[str, str], params: Collection[str]
) -> str:
    found = f"there is no {name!r}"
    if name in params:
        return f"{found} here; it is a parameter of SamplingParams: SamplingParams({name}=…)"
    if name in elsewhere:
        return f"{found}; here it is {elsewhere[name]}"
    if params and name in SAMPLING:
        return f"{found}; it is a parameter of SamplingParams, here {SAMPLING[name]}"
    from difflib import get_close_matches

    near = get_close_matches(name, known, 1)
    hint = f"did you mean {near[0]}? " if near else ""
    return f"{found}; {hint}expected one of {', '.join(known)}"
