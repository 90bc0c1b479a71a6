"""The files of the image: linted, their steps done in a bare folder, and in agreement with the server's settings."""

import os
import subprocess
import sys

import pytest
import yaml
from conftest import ROOT

import image_check
import settings

DEPLOY = ROOT / "deploy"
DEFAULTS = settings.parse_args([], environ={})


def manifest(name):
    return yaml.safe_load((DEPLOY / name).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def linters():
    """The interpreter of .venv-images."""
    python = ROOT / ".venv-images" / "bin" / "python"
    if not python.exists():
        message = "the linters of the image are not installed: make image-setup"
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)
    return python


def test_the_linters_find_nothing_and_the_steps_lead_to_a_server_that_answers(linters, bundles):
    words = (linters, DEPLOY / "image_check.py", "--bundle", bundles["news"], "--python", sys.executable)
    answer = subprocess.run(words, capture_output=True, encoding="utf-8")
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert "HEALTHCHECK succeeds" in answer.stdout and "SIGTERM ended it with status 0" in answer.stdout
    for program, *_ in image_check.LINTERS:
        assert f"\n{program}: " in f"\n{answer.stdout}"


def test_what_is_not_a_bundle_is_named(run, tmp_path):
    status, log = run(image_check.main, "--bundle", tmp_path)
    assert status == 2 and "name a folder that export_model.py wrote" in log


def test_a_missing_linter_is_named(run, bundles):
    status, log = run(image_check.main, "--bundle", bundles["news"])
    assert status == 2 and "hadolint is not installed beside" in log and "make image-check installs it" in log


def test_an_unknown_step_is_not_passed_over(tmp_path):
    image = image_check.Image(tmp_path)
    with pytest.raises(image_check.UserError, match="does not know ADD"):
        image.build([{"instruction": "FROM", "value": "x"}, {"instruction": "ADD", "value": "a b"}])


def test_the_image_has_neither_paddles_part_nor_caches(tmp_path):
    image = image_check.Image(tmp_path, sys.executable)
    image.build([{"instruction": "FROM", "value": "x"}, {"instruction": "COPY", "value": "text_cls/ /app/text_cls/"}])
    names = {path.relative_to(image.root / "app" / "text_cls").as_posix() for path in image.files() if path.is_file()}
    assert {"cli.py", "serving/predictor.py"} < names
    assert not any(name.startswith("neural") or "__pycache__" in name for name in names)


def test_accepted_requests_are_answered_before_a_container_is_killed():
    pod = manifest("kubernetes/deployment.yaml")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    pause = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod["terminationGracePeriodSeconds"] > pause + DEFAULTS.shutdown_seconds
    grace = manifest("compose.yaml")["services"]["server"]["stop_grace_period"]
    assert float(grace.removesuffix("s")) > DEFAULTS.shutdown_seconds


def test_no_container_is_root_or_may_write_to_its_root():
    pod = manifest("kubernetes/deployment.yaml")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] and pod["enableServiceLinks"] is False
    assert container["securityContext"]["readOnlyRootFilesystem"]
    for name, service in manifest("compose.yaml")["services"].items():
        assert service["read_only"] and service["cap_drop"] == ["ALL"], name
    assert "\nUSER 10001:10001\n" in (DEPLOY / "Dockerfile").read_text(encoding="utf-8")


def test_the_settings_in_the_files_are_settings():
    pod = manifest("kubernetes/deployment.yaml")["spec"]["template"]["spec"]
    names = {one["name"]: one.get("value", "key") for one in pod["containers"][0]["env"]}
    names |= manifest("compose.yaml")["services"]["server"]["environment"]
    for line in (DEPLOY / "Dockerfile").read_text(encoding="utf-8").splitlines():
        if line.startswith("ENV "):
            names |= dict(word.split("=") for word in line.split()[1:] if word.startswith(settings.PREFIX))
    chosen = settings.parse_args([], environ=names)
    assert (chosen.log_format, chosen.num_threads, chosen.port) == ("json", 2, DEFAULTS.port)
    assert all(hasattr(chosen, name.removeprefix(settings.PREFIX).lower()) for name in names)
