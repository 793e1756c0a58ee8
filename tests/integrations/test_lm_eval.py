"""The adapter for lm-evaluation-harness: with the package where it is installed, and without it."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from cullama import LLM, SamplingParams
from cullama.errors import UsageError

FIXTURE = Path(__file__).parents[1] / "fixtures" / "text"
IS_INSTALLED = find_spec("lm_eval") is not None
RECITED = " kept 12 clocks and 3 cats"


class TemplateLM:
    """What the adapter takes of the harness's class of this name."""

    def __init__(self) -> None:
        self.cache_hook = SimpleNamespace(add_partial=lambda *arguments: None)


@pytest.fixture(scope="module")
def adapter() -> Iterator[Any]:
    """The adapter's module; where the harness is not installed, with a double of it."""
    doubles: dict[str, Any] = {}
    if not IS_INSTALLED:
        for name in ("lm_eval", "lm_eval.api", "lm_eval.api.model", "lm_eval.api.registry"):
            doubles[name] = ModuleType(name)
        doubles["lm_eval.api.model"].TemplateLM = TemplateLM
        doubles["lm_eval.api.registry"].register_model = lambda name: lambda model: model
    if not find_spec("tqdm"):
        doubles["tqdm"] = ModuleType("tqdm")
        doubles["tqdm"].tqdm = Bar
    sys.modules.update(doubles)
    try:
        yield import_module("cullama.integrations.lm_eval")
    finally:
        for name in (*doubles, "cullama.integrations.lm_eval"):
            sys.modules.pop(name, None)


class Bar:
    """A progress bar that shows nothing."""

    def __init__(self, **options: Any) -> None:
        pass

    def update(self, count: int = 1) -> None:
        pass

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *error: object) -> None:
        pass


@pytest.fixture(scope="module")
def model(adapter: Any) -> Iterator[Any]:
    made = adapter.CullamaLM(str(FIXTURE), device="cpu", batch_size=4, deterministic=True)
    yield made
    made.llm.close()


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    with LLM(FIXTURE, deterministic=True) as llm:
        yield llm


def asked(*arguments: Any) -> Any:
    return SimpleNamespace(args=arguments)


# --- with the harness's interface ----------------------------------------------------------------


def test_loglikelihoods_are_scores(model: Any, llm: LLM) -> None:
    context, continuation = (
        llm.tokenizer.encode("The clockmaker"),
        llm.tokenizer.encode(RECITED, add_special_tokens=False),
    )
    requests = [(("a", "b"), context, continuation), (("a", "c"), context, continuation[::-1])]
    found = model._loglikelihood_tokens(requests)
    scores = llm.score(context, [continuation, continuation[::-1]])
    assert found == [(score.logprob, score.is_greedy) for score in scores]
    assert [is_greedy for _, is_greedy in found] == [True, False]


def test_contexts_are_cut_at_their_beginning(
    model: Any, llm: LLM, caplog: pytest.LogCaptureFixture
) -> None:
    longest = model.max_length
    assert longest == llm.config.context_length
    context = [5 + i % 250 for i in range(longest + 9)]
    [(logprob, _)] = model._loglikelihood_tokens([(("a", "b"), context, [7, 8])])
    assert logprob == llm.score(context[-(longest - 1) :], [7, 8]).logprob
    assert "1 prompts were cut at their beginning" in caplog.text


def test_a_continuation_without_a_token_is_refused(model: Any) -> None:
    with pytest.raises(UsageError, match=r"'b'.*no token of its own"):
        model._loglikelihood_tokens([(("a", "b"), [5], [])])


def test_rolling_loglikelihoods_predict_every_token_once(model: Any, llm: LLM) -> None:
    texts = ["The clockmaker kept 12 clocks", "", "A llama. " * 200]
    short, empty, long = model.loglikelihood_rolling([asked(text) for text in texts])
    assert short == llm.score("", texts[0]).logprob
    assert empty == 0
    ids = llm.tokenizer.encode(texts[2], add_special_tokens=False)
    window = model.max_length
    expected = llm.score([0], ids[:window]).logprob
    begin = 0
    for start in range(window, len(ids), window):
        end = min(start + window, len(ids))
        begin = end - 1 - window
        expected += llm.score(ids[begin:start], ids[start:end]).logprob
    assert begin > 0
    assert long == pytest.approx(expected, abs=1e-9)


def test_generations_end_before_their_stop_texts(model: Any, llm: LLM) -> None:
    greedy = {"until": ["."], "max_gen_toks": 40, "do_sample": False, "temperature": 0.7}
    found = model.generate_until(
        [
            asked("The clockmaker", greedy),
            asked("The clockmaker", {"until": "3", "max_new_tokens": 40}),
            asked("The clockmaker", {**greedy, "max_gen_toks": 3}),
        ]
    )
    whole = llm.generate("The clockmaker", SamplingParams(temperature=0, max_tokens=40)).text
    assert found[0] == RECITED == whole.partition(".")[0]
    assert found[1] == RECITED.partition("3")[0]
    assert whole.startswith(found[2])
    assert len(found[2]) < len(found[1])


def test_sampling_arguments_are_obeyed_or_refused_by_name(model: Any, llm: LLM) -> None:
    sampled = {"do_sample": True, "temperature": 1.5, "top_p": 0.9, "seed": 4, "max_gen_toks": 9}
    params = SamplingParams(temperature=1.5, top_p=0.9, seed=4, max_tokens=9)
    [found] = model.generate_until([asked("The clockmaker", sampled)])
    assert found == llm.generate("The clockmaker", params).text
    with pytest.raises(UsageError, match="there is no 'num_beams'"):
        model.generate_until([asked("a", {"num_beams": 4})])
    with pytest.raises(UsageError, match="leave no room for a prompt"):
        model.generate_until([asked("a", {"max_gen_toks": 10_000})])


def test_texts_become_tokens_as_prompts_do(model: Any, llm: LLM) -> None:
    text = "Who<|end|>"
    assert model.tok_encode(text) == llm.tokenizer.encode_prompt(text, llm.config.bos_id)
    own = model.tok_encode(text, add_special_tokens=False)
    assert own == llm.tokenizer.encode(text, add_special_tokens=False, allow_special=True)
    assert model.tok_decode(own, skip_special_tokens=False) == text
    assert model.prefix_token_id == llm.config.bos_id
    assert model.eot_token_id == llm.config.eos_ids[0]
    assert model.tokenizer_name == "text"


def test_conversations_are_rendered_by_the_model_s_template(adapter: Any) -> None:
    template = FIXTURE.parent / "template.jinja"
    source = (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}<|end|>{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    with pytest.MonkeyPatch.context() as patch, LLM(FIXTURE) as llm:
        from cullama.chat.template import ChatTemplate

        patch.setitem(llm.__dict__, "chat_template", ChatTemplate(source, str(template)))
        model = adapter.CullamaLM(llm)
        messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "So "}]
        assert model.apply_chat_template(messages[:1]) == "user: Hi<|end|>assistant: "
        assert model.apply_chat_template(messages, add_generation_prompt=False) == (
            "user: Hi<|end|>assistant: So"
        )
        assert model.chat_template(True) == source
        assert model.chat_template(False) is None
        with pytest.raises(UsageError, match="expected the model's own"):
            model.chat_template("tools")


def test_settings_beside_an_open_model_are_refused(adapter: Any, llm: LLM) -> None:
    with pytest.raises(UsageError, match="context_length, dtype: the LLM that is given"):
        adapter.CullamaLM(llm, dtype="float16", max_length=8)


def test_a_model_without_a_template_refuses_conversations(adapter: Any, tiny_model: Path) -> None:
    with LLM(tiny_model) as llm:
        model = adapter.CullamaLM(llm)
        with pytest.raises(UsageError, match="has no chat template"):
            model.apply_chat_template([{"role": "user", "content": "Hi"}])


# --- with the harness itself ---------------------------------------------------------------------

TASKS: dict[str, dict[str, Any]] = {
    "made_choice": {
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "answer",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    },
    "made_rolling": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
        "metric_list": [{"metric": "byte_perplexity"}],
    },
    "made_generate": {
        "output_type": "generate_until",
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{text}}",
        "generation_kwargs": {"until": ["."], "max_gen_toks": 60, "do_sample": False},
        "metric_list": [{"metric": "exact_match"}],
    },
}
DOCUMENTS: list[dict[str, Any]] = [
    {
        "question": "The clockmaker",
        "choices": ["kept 12 clocks", "sold two cats"],
        "answer": 0,
        "text": RECITED,
    },
    {
        "question": "In the little café",
        "choices": ["in the snow", "by the sea"],
        "answer": 0,  # which is wrong
        "text": " by the sea, a naïve gull ordered crème brûlée — twice",
    },
]


@pytest.mark.skipif(not IS_INSTALLED, reason="lm-eval is not installed: pip install lm-eval")
@pytest.mark.filterwarnings("ignore")  # its own, and those of what it imports
def test_made_tasks_run_on_cullama(
    model: Any, llm: LLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import lm_eval
    import yaml
    from lm_eval.tasks import TaskManager

    data = tmp_path / "documents.jsonl"
    data.write_text("".join(json.dumps(each) + "\n" for each in DOCUMENTS), encoding="utf-8")
    for name, task in TASKS.items():
        common = {
            "task": name,
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(data)}},
            "test_split": "test",
        }
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump({**common, **task}))
    found = lm_eval.simple_evaluate(
        model=model,
        tasks=list(TASKS),
        task_manager=TaskManager(include_path=str(tmp_path), include_defaults=False),
        bootstrap_iters=0,
    )
    results = found["results"]
    assert results["made_choice"]["acc,none"] == 0.5
    assert results["made_generate"]["exact_match,none"] == 1.0
    texts = [each["text"] for each in DOCUMENTS]
    logprob = sum(llm.score("", str(text)).logprob for text in texts)
    size = sum(len(str(text).encode()) for text in texts)
    assert results["made_rolling"]["byte_perplexity,none"] == pytest.approx(
        math.exp(-logprob / size)
    )
    for sample, document in zip(found["samples"]["made_choice"], DOCUMENTS, strict=True):
        choices = [f" {choice}" for choice in document["choices"]]
        scores = llm.score(str(document["question"]), choices)
        logprobs = [float(resp[0][0]) for resp in sample["resps"]]
        assert logprobs == [score.logprob for score in scores]


@pytest.mark.skipif(not IS_INSTALLED, reason="lm-eval is not installed: pip install lm-eval")
def test_the_harness_knows_the_model_by_name(adapter: Any) -> None:
    from lm_eval.api.registry import get_model

    assert get_model("cullama") is adapter.CullamaLM
