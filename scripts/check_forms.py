"""Checks answers of a given form with a real model, and what they cost, and prints the figures.

    python scripts/check_forms.py [-m MODEL] [--seeds 3] [--rounds 7]

Every schema of tests/engine/form_schemas.py, greedy and by some seeds: an answer that ends by
"stop" has to be valid under `jsonschema`, and every schema that is refused has to name its keyword.
Then 8 requests at once, with and without a form, in turns. The exit status is 1 if a goal is
missed.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cullama import LLM, SamplingParams

ROOT = Path(__file__).resolve().parents[1]
BATCH, TOKENS = 8, 96
LEAST_SPEED = 0.9  # of the tokens a second without a form

# Forms in which a model has something to choose at every token, and one with forced tokens; none of
# them comes to an end within TOKENS.
COSTS: dict[str, dict[str, Any]] = {
    "any text": {"regex": "(.|\n)*"},
    "texts in JSON": {
        "json_schema": {"type": "array", "items": {"type": "string"}, "minItems": TOKENS}
    },
    "objects in JSON": {
        "json_schema": {
            "type": "array",
            "minItems": TOKENS,
            "items": {
                "type": "object",
                "properties": {
                    "name": {"type": "string", "maxLength": 30},
                    "quantity": {"type": "integer", "minimum": 0, "maximum": 99},
                    "kind": {"enum": ["vegetable", "fruit"]},
                },
                "required": ["name", "quantity", "kind"],
                "additionalProperties": False,
            },
        }
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Check answers of a given form.")
    parser.add_argument("-m", "--model", help="the default model without it")
    parser.add_argument("--backend", default="auto")
    parser.add_argument(
        "--seeds", type=int, default=3, help="answers of each schema, beside greedy"
    )
    parser.add_argument("--rounds", type=int, default=7, help="of the measurement of speed")
    options = parser.parse_args()
    sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests" / "engine")]
    from cullama import LLM

    with LLM(options.model, backend=options.backend) as llm:
        print(llm.description)
        is_met = [
            check_schemas(llm, options.seeds),
            check_refusals(llm),
            *(compare(llm, name, options.rounds) for name in COSTS),
        ]
    sys.exit(0 if all(is_met) else 1)


def check_schemas(llm: LLM, seeds: int) -> bool:
    """Generate answers of every schema, those of one schema at once; all that end are valid."""
    from form_schemas import SCHEMAS
    from jsonschema import Draft202012Validator

    from cullama import SamplingParams

    counted: Counter[str] = Counter()
    wrong: list[str] = []
    for name, schema in SCHEMAS.items():
        params = [
            SamplingParams(
                json_schema=schema,
                max_tokens=250,
                temperature=min(seed, 1),
                seed=seed,
                speculation=4,
            )
            for seed in range(seeds + 1)
        ]
        question = [{"role": "user", "content": f"Answer in JSON, for example: {name}."}]
        for answer in llm.chat([question] * len(params), params, progress=False):
            counted[answer.finish_reason] += 1
            if answer.finish_reason == "stop":
                validator = Draft202012Validator(schema)
                if not validator.is_valid(json.loads(answer.text)):
                    wrong.append(f"{name}: {answer.text}")
    print(
        f"{len(SCHEMAS)} schemas, {counted.total()} answers: {counted['stop']} ended by stop, "
        f"{counted['length']} cut off, {len(wrong)} of those that ended not valid"
    )
    for each in wrong:
        print("  ", each)
    return not wrong and counted["stop"] > 0


def check_refusals(llm: LLM) -> bool:
    from form_schemas import REFUSED

    from cullama import SamplingParams
    from cullama.errors import ConstraintError

    missed = []
    for name, (schema, keyword) in REFUSED.items():
        try:
            llm.generate([0], SamplingParams(json_schema=schema, max_tokens=1))
            missed.append(f"{name} was not refused")
        except ConstraintError as error:
            if keyword not in str(error):
                missed.append(f"{name} does not name {keyword}: {error}")
    print(f"{len(REFUSED)} schemas that are refused, {len(missed)} of them without their keyword")
    for each in missed:
        print("  ", each)
    return not missed


def compare(llm: LLM, name: str, rounds: int) -> bool:
    """Print the tokens a second of requests with a form, in parts of those without, in turns."""
    from cullama import SamplingParams

    free = SamplingParams(max_tokens=TOKENS, seed=1, ignore_eos=True)
    formed = free.replace(**COSTS[name])
    without, with_form = [], []
    tokens_per_second(llm, formed)
    for _ in range(rounds):
        without.append(tokens_per_second(llm, free))
        with_form.append(tokens_per_second(llm, formed))
    ratios = [mine / other for mine, other in zip(with_form, without, strict=True)]
    print(
        f"{name}, {BATCH} requests at once: {median(ratios):.3f} of the tokens a second without a "
        f"form, from {min(ratios):.3f} to {max(ratios):.3f} in {rounds} rounds; "
        f"at best {max(with_form):.0f} of {max(without):.0f}"
    )
    return median(ratios) >= LEAST_SPEED


def tokens_per_second(llm: LLM, params: SamplingParams) -> float:
    """Return the speed from the first pass to the last, prompts of a few tokens included."""
    prompts = [f"A list of {count} things: " for count in range(2, 2 + BATCH)]
    start = time.perf_counter()
    answers = llm.generate(prompts, params, progress=False)
    seconds = time.perf_counter() - start
    return sum(len(answer.token_ids) for answer in answers) / seconds


if __name__ == "__main__":
    main()
