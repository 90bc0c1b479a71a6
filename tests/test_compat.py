"""Which parts of PaddleNLP are imported. Each test has a process of its own: an import cannot be undone."""

import subprocess
import sys

import pytest
from conftest import ROOT

START = """
import sys
from text_cls.neural.compat import import_paddle, whole_paddlenlp
import_paddle()
import paddlenlp
"""
HEAVY = ("matplotlib", "paddleslim", "pandas", "sklearn", "paddlenlp.taskflow", "paddlenlp.trainer")


def printed(code):
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_models_are_imported_without_trainers_and_what_these_need():
    code = f"print(*[name for name in {HEAVY} if name in sys.modules], paddlenlp.transformers.AutoModel.__name__)"
    assert printed(START + code) == ["AutoModel"]


def test_the_version_is_that_of_paddlenlp():
    plain = printed("import paddlenlp; print(paddlenlp.__version__)")
    assert printed(START + "print(paddlenlp.__version__)") == plain


@pytest.mark.parametrize(
    "use",
    [
        "paddlenlp.Taskflow",
        "whole_paddlenlp() or __import__('paddlenlp.trainer').trainer.Trainer",
        "__import__('text_cls.neural.pruning').neural.pruning.Trainer",
        "sys.path.append('few-shot') or __import__('prompt_training').PromptTrainer",
        "__import__('paddlenlp.dataaug').dataaug.WordSubstitute",
        "__import__('paddlenlp.datasets').datasets.load_dataset",
    ],
)
def test_the_rest_is_imported_when_it_is_asked_for(use):
    assert len(printed(START + f"print({use}.__name__)")) == 1


def test_what_paddlenlp_does_not_have_is_an_attribute_error():
    assert printed(START + "print(hasattr(paddlenlp, 'nothing'), hasattr(paddlenlp, '__nothing__'))") == ["False"] * 2
