"""Answers that have a form: from a model of random weights, which writes no JSON by itself."""

from __future__ import annotations

import json
import os
import re
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from live import END, WriteModel, check_blocks, ids, is_idle, run, submit_to
from tokenizers import Tokenizer, decoders, models, normalizers

from cullama import LLM, SamplingParams
from cullama.engine.client import GenerationRequest
from cullama.errors import ConstraintError, NoTokenizerError

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "kinds": {"type": "array", "items": {"enum": ["red", "green"]}, "maxItems": 2},
    },
    "required": ["name", "age", "kinds"],
    "additionalProperties": False,
}
FORMS: dict[str, Any] = {
    "json_schema": SCHEMA,
    "regex": "[0-9]{2}:[0-9]{2}",
    "grammar": 'start: "see " ("the " | "a ") /[a-z]{3,5}/ "."',
    "choice": ["a small llama", "a small clock", "東京"],
}


@pytest.fixture(scope="module")
def llm(
    tmp_path_factory: pytest.TempPathFactory, write_model: WriteModel, tokenizer_file: Path
) -> Iterator[LLM]:
    folder = tmp_path_factory.mktemp("models") / "roomy"
    write_model(folder, tokenizer=tokenizer_file, max_position_embeddings=512)
    with LLM(folder, backend="cpu:numpy", cache_tokens=4096) as made:
        yield made
        assert is_idle(made.engine)
        check_blocks(made.engine)


def has_form(name: str, text: str) -> bool:
    if name == "json_schema":
        return Draft202012Validator(SCHEMA).is_valid(json.loads(text))
    if name == "choice":
        return text in FORMS["choice"]
    pattern = FORMS["regex"] if name == "regex" else r"see (the |a )[a-z]{3,5}\."
    return re.fullmatch(pattern, text) is not None


@pytest.mark.parametrize("speculation", [0, 4])
@pytest.mark.parametrize("temperature", [0, 1])
@pytest.mark.parametrize("name", FORMS)
def test_an_answer_has_its_form(llm: LLM, name: str, temperature: int, speculation: int) -> None:
    params = SamplingParams(
        **{name: FORMS[name]},
        temperature=temperature,
        seed=5,
        n=3,
        max_tokens=150,
        speculation=speculation,
    )
    first = llm.generate("Once upon a time", params)
    for answer in (first, *first.alternatives):
        assert answer.finish_reason == "stop"
        assert has_form(name, answer.text), answer.text


@pytest.mark.parametrize("name", FORMS)
def test_it_ends_where_nothing_may_follow_without_an_end_token(llm: LLM, name: str) -> None:
    for ignore_eos in (False, True):
        params = SamplingParams(
            **{name: FORMS[name]}, seed=1, max_tokens=150, ignore_eos=ignore_eos
        )
        answer = llm.generate("Once", params)
        assert END not in answer.token_ids
        assert answer.finish_reason == "stop"
        assert answer.stop_reason is None


def test_forced_tokens_go_through_the_model_together(llm: LLM) -> None:
    words = "over the hill to see the sea, and nobody was there"
    before = llm.engine.metrics.steps
    answer = llm.generate("Once", SamplingParams(choice=[words], max_tokens=100))
    assert answer.text == words
    assert len(answer.token_ids) > 5
    assert llm.engine.metrics.steps - before == 2  # the prompt, and all behind the first token


def test_end_tokens_are_drawn_only_where_the_answer_is_complete(llm: LLM) -> None:
    [stop] = llm.tokenizer.encode("a", add_special_tokens=False)
    for seed in range(20):
        params = SamplingParams(
            regex="[ab]{2}[abc]*",
            seed=seed,
            max_tokens=40,
            stop_token_ids=(stop,),
            logit_bias={END: 100.0, stop: 99.0},
        )
        answer = llm.generate("Once", params)
        assert re.fullmatch("[ab]{2,}", answer.text)
        assert answer.finish_reason == "stop"
        assert answer.stop_reason in (END, stop)


def test_bias_forbids_nothing_that_the_form_needs(llm: LLM) -> None:
    [letter] = llm.tokenizer.encode("a", add_special_tokens=False)
    params = SamplingParams(regex="a{3}", logit_bias={letter: -1e6}, max_tokens=9)
    assert llm.generate("Once", params).text == "aaa"


def test_logprobs_are_the_models_own(llm: LLM) -> None:
    params = SamplingParams(regex="[xyz]{6}", temperature=0, logprobs=3, max_tokens=20)
    answer = llm.generate("Once upon", params)
    assert answer.logprobs is not None
    prompt = llm.tokenizer.encode_prompt("Once upon", llm.config.bos_id)
    logits = llm.logits([*prompt, *answer.token_ids])
    for place, each in enumerate(answer.logprobs):
        row = logits[len(prompt) - 1 + place].astype(float)
        expected = row - row.max()
        assert each.token_id == answer.token_ids[place]
        assert each.top[0][0] == row.argmax(), "the likeliest, whether it was allowed or not"
        of_token = float(expected[each.token_id] - each.top[0][1] * 0)
        assert each.logprob - each.top[0][1] == pytest.approx(of_token, abs=1e-3)


@pytest.mark.parametrize("speculation", [0, 6])
def test_the_same_seed_gives_the_same_answer_beside_others(llm: LLM, speculation: int) -> None:
    params = SamplingParams(json_schema=SCHEMA, seed=11, max_tokens=150, speculation=speculation)
    alone = llm.generate("Once upon a time", params)
    others = [SamplingParams(**{name: FORMS[name]}, max_tokens=60) for name in FORMS]
    free = SamplingParams(max_tokens=60, ignore_eos=True)
    prompts = ["Once upon a time"] * (2 + len(others))
    together = llm.generate(prompts, [free, *others, params])
    assert together[-1].text == alone.text
    assert len(together[0].token_ids) == 60


def test_an_answer_that_has_begun_goes_on_in_its_form(llm: LLM) -> None:
    begun = llm.tokenizer.encode('{"name": "ab', add_special_tokens=False)
    prompt = llm.tokenizer.encode("Once")
    params = SamplingParams(json_schema=SCHEMA, seed=2, max_tokens=150)
    [handle] = llm.engine.submit(GenerationRequest(prompt, params, answer=begun))
    run(llm.engine, handle.request)
    rest = handle.read()
    assert rest.finish_reason == "stop"
    assert has_form("json_schema", llm.tokenizer.decode([*begun, *rest.token_ids]))


def test_an_answer_that_has_begun_in_another_form_is_refused(llm: LLM) -> None:
    prompt = llm.tokenizer.encode("Once")
    params = SamplingParams(regex="[0-9]+")
    with pytest.raises(ConstraintError, match="regex"):
        llm.engine.submit(GenerationRequest(prompt, params, answer=ids(3)))


def test_an_answer_that_is_complete_already_ends_at_once(llm: LLM) -> None:
    begun = llm.tokenizer.encode("yes", add_special_tokens=False)
    params = SamplingParams(choice=["yes", "no"])
    [handle] = llm.engine.submit(GenerationRequest(ids(4), params, answer=begun))
    new = handle.read()
    assert (list(new.token_ids), new.finish_reason) == ([], "stop")


def test_a_prompt_that_is_only_scored_needs_no_form(llm: LLM) -> None:
    params = SamplingParams(json_object=True, max_tokens=0, prompt_logprobs=0)
    scored = llm.generate("Once upon a time", params)
    assert scored.prompt_logprobs is not None
    assert scored.text == ""


def test_preempted_requests_go_on_in_their_form(
    tmp_path: Path, write_model: WriteModel, tokenizer_file: Path
) -> None:
    folder = write_model(tmp_path / "m", tokenizer=tokenizer_file, max_position_embeddings=512)
    with LLM(folder, backend="cpu:numpy", cache_tokens=256) as small:
        requests = []
        for seed in range(6):
            params = SamplingParams(regex="[a-z]{90}[0-9]", seed=seed, max_tokens=120)
            requests += submit_to(small.engine, ids(20, seed), params)
        run(small.engine, *requests)
        assert small.engine.metrics.preemptions > 0
        for request in requests:
            assert request.finish_reason == "stop"
            assert re.fullmatch("[a-z]{90}[0-9]", small.tokenizer.decode(request.answer))


REFUSED: dict[str, dict[str, Any]] = {
    "not regular": {"regex": "("},
    "look": {"json_schema": {"type": "string", "pattern": "(?=a)b"}},
    "nothing": {"json_schema": {"type": "integer", "minimum": 5, "maximum": 3}},
    "circle": {"json_schema": {"$ref": "#"}},
    "dangling": {"json_schema": {"$ref": "#/$defs/a"}},
    "one of": {"json_schema": {"oneOf": [{"type": "string"}, {"type": "string", "maxLength": 3}]}},
    "unknown rule": {"grammar": "start: x"},
    "empty": {"regex": ""},
    "left circle": {"grammar": 'start: start "a"'},
    "large": {"json_schema": {"properties": {f"p{index}": {} for index in range(3500)}}},
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_followed_is_refused_before_anything_is_generated(
    llm: LLM, case: str
) -> None:
    before = llm.engine.metrics.submitted
    with pytest.raises(ConstraintError) as caught:
        llm.generate("Once", SamplingParams(**REFUSED[case]))
    [name] = REFUSED[case]
    assert caught.value.param == name
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)
    assert llm.engine.metrics.submitted == before


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, write_model: WriteModel) -> Iterator[LLM]:
    """A model whose vocabulary has words and letters, as SentencePiece writes them, no braces."""
    pieces = ["<unk>", "<s>", "</s>", "▁", *"abcdefghijklmnopqrstuvwxyz.,", "▁the", "ed", "red"]
    tokenizer = Tokenizer(
        models.BPE(
            vocab={piece: index for index, piece in enumerate(pieces)},
            merges=[("e", "d"), ("r", "ed")],
            unk_token="<unk>",
            fuse_unk=True,
        )
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.add_special_tokens(pieces[:3])
    folder = tmp_path_factory.mktemp("models")
    tokenizer.save(str(folder / "plain.json"))
    write_model(folder / "plain", tokenizer=folder / "plain.json", vocab_size=40, eos_token_id=2)
    with LLM(folder / "plain", backend="cpu:numpy") as made:
        yield made


@pytest.mark.parametrize(
    ("name", "missing"),
    [
        ("json_schema", "{"),
        ("json_object", "{"),
        ("choice", "東"),
        ("regex", "0"),
        ("grammar", "!"),
    ],
)
def test_a_vocabulary_that_cannot_write_a_form_says_so(plain: LLM, name: str, missing: str) -> None:
    forms = {**FORMS, "json_object": True, "regex": "0x[a-f]+", "grammar": 'start: "!" /a+/'}
    before = plain.engine.metrics.submitted
    with pytest.raises(ConstraintError, match=f"vocabulary cannot write .*{re.escape(missing)}"):
        plain.generate("the red", SamplingParams(**{name: forms[name]}))
    assert plain.engine.metrics.submitted == before


def test_a_vocabulary_of_words_follows_the_forms_that_it_can_write(plain: LLM) -> None:
    choices = ["red", "the bed", "a red bed"]
    for seed in range(10):
        params = SamplingParams(choice=choices, seed=seed, max_tokens=30)
        assert plain.generate("the", params).text.strip() in choices


def test_where_the_vocabulary_fails_in_the_middle_the_answer_ends_with_an_error(
    plain: LLM,
) -> None:
    free = SamplingParams(max_tokens=20, ignore_eos=True)
    stuck = SamplingParams(regex="a[b-d][0-9]", max_tokens=30)
    with pytest.raises(ConstraintError, match="regex cannot be followed"):
        plain.generate("the", stuck)
    streams = [plain.stream("the", params) for params in (free, stuck, free)]
    with pytest.raises(ConstraintError, match="regex cannot be followed"):
        list(streams[1])
    for stream in streams[::2]:
        list(stream)
        assert len(stream.completion.token_ids) == 20, "others go on"


def test_without_llguidance_the_extra_is_named(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with LLM(tiny_model, backend="cpu:numpy") as bare:
        assert bare.generate("Once", SamplingParams(max_tokens=3)).token_ids
        with pytest.raises(ConstraintError, match=r"json_object needs llguidance.*structured"):
            bare.generate("Once", SamplingParams(json_object=True))


def test_a_constraint_that_takes_too_long_to_compile_is_refused_and_others_are_not(
    llm: LLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = {f"p{index}": {"type": "null"} for index in range(700)}
    with monkeypatch.context() as patch:
        patch.setattr("cullama.engine.grammars.COMPILE_SECONDS", 0.01)
        with pytest.raises(ConstraintError, match="to compile"):
            llm.generate("Once", SamplingParams(json_schema={"properties": many}))
    assert llm.generate("Once", SamplingParams(choice=["yes"])).text == "yes"


def test_a_forked_child_follows_forms_too(llm: LLM) -> None:
    params = SamplingParams(json_schema=FORMS["json_schema"], seed=4, max_tokens=150)
    expected = llm.generate("Once", params).text
    reading, writing = os.pipe()
    with warnings.catch_warnings():  # of a process with several threads
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        try:
            os.write(writing, llm.generate("Once", params).text.encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        assert pipe.read().decode() == expected
    os.waitpid(child, 0)


def test_a_model_without_a_tokenizer_follows_no_form(
    tmp_path: Path, write_model: WriteModel
) -> None:
    with (
        LLM(write_model(tmp_path / "bare"), backend="cpu:numpy") as bare,
        pytest.raises(NoTokenizerError),
    ):
        bare.generate([3, 4], SamplingParams(json_object=True))
