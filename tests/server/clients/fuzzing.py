"""How schemathesis is told to try a server's routes, in tests and by `scripts/fuzz_server.py`."""

from __future__ import annotations

from pathlib import Path

from clients_environment import FOLDER

SCHEMATHESIS = FOLDER / "bin" / "schemathesis"
CONTEXT = 64  # tokens: an answer may fill it, as few examples say how long it is to be

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "unsupported_method",
    "allow_header_conformance",
)
# What fits the document may still be refused: another model's name, a prompt that is too long.
# /engine has no end unless it is asked for one.
SETTINGS = """
[[operations]]
include-path-regex = "/engine$"
parameters = { once = true }

[checks.not_a_server_error]
expected-statuses = ["2xx", "3xx", "4xx", "501", "503"]
"""


def command(
    url: str, folder: Path, examples: int, seed: int, phases: str = "coverage,fuzzing"
) -> list[str]:
    """Return the command that tries every route of a server.

    Args:
        folder: gets the settings, which are a file.
        examples: of each route.
        phases: "coverage" goes through the bounds of each field, two thousand requests, beside
            those that are drawn.
    """
    settings = folder / "schemathesis.toml"
    settings.write_text(SETTINGS, encoding="utf-8")
    options = {
        "--mode": "all",
        "--max-examples": examples,
        "--seed": seed,
        "--phases": phases,
        "--checks": ",".join(CHECKS),
        "--request-timeout": 20,
        "--suppress-health-check": "all",
        "--warnings": "off",
        "--generation-database": "none",
    }
    spelled = [f"{name}={value}" for name, value in options.items()]
    program = [str(SCHEMATHESIS), f"--config-file={settings}", "run", f"{url}/openapi.json"]
    return [*program, *spelled, "--continue-on-failure", "--no-shrink"]
