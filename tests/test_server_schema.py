"""schemathesis sends a running server everything that its OpenAPI schema allows, and much that it does not."""

import subprocess

import pytest
from conftest import command_line

from serving import serving


@pytest.mark.parametrize("key", [None, "s3cret"])
def test_the_schema_matches_the_answers(bundles, tmp_path, key):
    """No 5xx, no answer outside the schema, no invalid request accepted, no valid one refused."""
    limits = ("--max_texts", 8, "--max_characters", 200)
    environment = {"TEXT_CLS_API_KEY": key} if key else {}
    with serving(bundles["news"], tmp_path / "log", *limits, **environment) as server:
        command = command_line(
            "-m",
            "schemathesis.cli",
            "run",
            f"http://127.0.0.1:{server.port}/openapi.json",
            "--checks",
            "all",
            "--max-examples",
            10 if key else 40,
            "--seed",
            1,
            "--generation-database",
            "none",
            "--no-color",
            *(("--header", f"X-API-Key: {key}") if key else ()),
        )
        answer = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, encoding="utf-8")
        assert answer.returncode == 0, answer.stdout + answer.stderr
        log = server.text()
    assert "failed:" not in log and " 200 " in log and " 422 " in log and log.count("POST") > 30
