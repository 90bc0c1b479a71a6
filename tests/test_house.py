import pytest
from conftest import ROOT
from house import DIRECTIVES, ORDER, PATH_LINE, SIX, problems

SCRIPT = f'import sys\nfrom pathlib import Path\n\n{PATH_LINE}\n\nif __name__ == "__main__":\n    sys.exit()\n'


@pytest.fixture
def house(tmp_path):
    """house({path: text}) -> violations in a small project with these files changed or added (None: removed)."""

    def build(changes):
        files = {name: "" for name in SIX}
        files |= {f"text_cls/{folder}/__init__.py".replace("//", "/"): "" for folder in ORDER}
        files |= {
            "train.py": 'from text_cls.neural.training import train\n\nif __name__ == "__main__":\n    train()\n',
            "analysis/split.py": SCRIPT,
            "analysis/words.py": "import re\n",
            "deploy/models/step.py": f"{PATH_LINE}\n\n\nclass TritonPythonModel:\n    pass\n",
            "deploy/server.py": SCRIPT + "from text_cls.serving import predictor\n",
            "text_cls/cli.py": "import numpy\n",
            "text_cls/rows.py": "from text_cls.cli import UserError\n",
            "text_cls/search/index.py": "from text_cls import rows\nfrom . import neighbours\n",
            "text_cls/search/neighbours.py": "from ..cli import logger\n",
            "text_cls/serving/predictor.py": "import onnxruntime\nfrom text_cls.search.index import Index\n",
            "text_cls/neural/training.py": "import paddle, text_cls.rows\nfrom text_cls.serving import predictor\n",
        }
        for path, text in {**files, **changes}.items():
            if text is not None:
                (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
                (tmp_path / path).write_text(text, encoding="utf-8")
        return problems(tmp_path)

    return build


def test_the_rules_are_kept():
    found = problems(ROOT)
    assert not found, "\n".join(["", *found])


def test_a_project_that_keeps_the_rules(house):
    assert house({}) == []


LATE = "def late():\n    "  # imports within a function count as well


@pytest.mark.parametrize(
    ("changes", "messages"),
    [
        (
            {"text_cls/cli.py": "import train\n"},
            ["text_cls/cli.py imports train: nothing in text_cls imports"],
        ),
        ({"text_cls/cli.py": f"{LATE}from utils import x\n"}, ["imports utils: nothing in text_cls imports a script"]),
        ({"text_cls/neural/training.py": "import words\n"}, ["imports words: nothing in text_cls imports a script"]),
        (
            {"text_cls/cli.py": f"{LATE}from text_cls import rows\n"},
            [
                "text_cls/cli.py: text_cls.cli > text_cls.rows > text_cls.cli: no import cycles in text_cls",
                "text_cls/rows.py: text_cls.rows > text_cls.cli > text_cls.rows: no import cycles in text_cls",
            ],
        ),
        (
            {"text_cls/search/neighbours.py": "from .index import Index\n"},
            [
                "search.index > text_cls.search.neighbours > text_cls.search.index: no import",
                "search.neighbours > text_cls.search.index > text_cls.search.neighbours: no import",
            ],
        ),
        (
            {"text_cls/decision.py": "from text_cls.search.neighbours import x\n"},
            ["text_cls/decision.py imports text_cls.search.neighbours: the top level of text_cls imports nothing else"],
        ),
        (
            {"text_cls/decision.py": f"{LATE}import text_cls.neural.training\n"},
            ["imports text_cls.neural.training: the top level of text_cls imports nothing else"],
        ),
        (
            {"text_cls/search/new.py": "from text_cls.serving.predictor import Predictor\n"},
            ["imports text_cls.serving.predictor: search of text_cls imports the top level"],
        ),
        (
            {"text_cls/serving/new.py": "from ..neural import training\n"},
            ["imports text_cls.neural.training: serving of text_cls imports the top level, search"],
        ),
        (
            {"text_cls/neural/new.py": "from text_cls.search import index\n"},
            ["imports text_cls.search.index: neural of text_cls imports the top level, serving"],
        ),
        (
            {"text_cls/cli.py": f"{LATE}import paddle.nn as nn\n"},
            ["text_cls/cli.py imports paddle.nn: in text_cls, only neural imports Paddle, and deploy/ never does"],
        ),
        ({"text_cls/serving/new.py": "from paddlenlp import x\n"}, ["imports paddlenlp: in text_cls, only neural"]),
        ({"deploy/x/gate.py": "import paddle\n"}, ["deploy/x/gate.py imports paddle: in text_cls, only neural"]),
        ({"deploy/x/gate.py": "from text_cls.neural import training\n"}, ["deploy/ works without text_cls.neural"]),
        ({"doccano.py": ""}, ["doccano.py does not belong here: the root has exactly export_model.py, metric.py"]),
        ({"prune.py": None}, ["prune.py is missing: the root has exactly"]),
        (
            {"data/x.py": 'if __name__ == "__main__":\n    pass\n'},
            ["data/x.py: a script outside the root has"],
        ),
        ({"data/x.py": SCRIPT.replace("parents", "parents[1:]")}, ["data/x.py: a script outside the root has this"]),
        ({"data/x.py": SCRIPT + "sys.path.append('.')\n"}, ["data/x.py: a script outside the root has"]),
        ({"analysis/words.py": f"{PATH_LINE}\n"}, ["analysis/words.py mentions sys.path: modules never touch it"]),
        ({"text_cls/cli.py": "import sys\nprint(sys.path)\n"}, ["text_cls/cli.py mentions sys.path: modules never"]),
        ({"predict.py": SCRIPT}, ["predict.py mentions sys.path: scripts in the root never touch it"]),
        *(
            ({"tests/test_x.py": f"\nimport os  {words}\n"}, [f"tests/test_x.py:2: {words}: change the code"])
            for words in DIRECTIVES
        ),
    ],
)
def test_a_violation_is_named_with_its_rule(house, changes, messages):
    found = house(changes)
    assert len(found) == len(messages), found
    for line, message in zip(found, messages):
        assert message in line
