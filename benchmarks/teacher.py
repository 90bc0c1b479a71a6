"""A teacher of 12 layers and its students, with few labelled rows and many texts without labels. Two hours of CPU.

    python benchmarks/teacher.py                                 # all runs; about 2 CPU hours
    python benchmarks/teacher.py --list                          # what is finished
    python benchmarks/teacher.py --only teacher-seed3 linear-taught-seed3

2,000 rows of duee's train.txt, drawn by seed, have labels: nine tenths are trained on, the rest chooses the epoch and
the thresholds. The texts of all other rows have none. The teacher is multilingual-e5-small fine-tuned on the labelled
rows. Students have 4 or 2 of its layers, or are linear; alone, they are trained on the same labelled rows: layers of
the pretrained encoder, or a linear model. DynaBERT's widths (prune.py) of the teacher are as wide as the students are
deep. F1 is that of the bundles on all of dev.txt, which chose nothing; speed is that of the predictor on all cores,
from texts to probabilities, the median of 5 passes over dev.txt. What is finished is kept in benchmarks/results.
The sets are read from ../shared/data or from the folder in TEXT_CLASSIFICATION_DATA.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(next(p for p in Path(__file__).resolve().parents if Path(p, "text_cls").is_dir())))

import e5_model
import kept_runs
from kept_runs import Run
from project import DATA, texts_per_second
from public_sets import hold_out, micro_macro, read_set, write_rows
from text_cls import thresholds
from text_cls.cli import non_negative_int, positive_int
from text_cls.decision import Decision

SET, LAYERS, LABELLED, HELD = "duee", 12, 2000, 0.1
TRAINING = "--max_seq_length 64 --batch_size 16 --learning_rate 4e-4 --warmup --warmup_steps 0.1 --max_grad_norm 1"
ALONE = f"{TRAINING} --epochs 6 --head_start linear"
TAUGHT = f"{TRAINING} --epochs 3 --head_start linear --teacher_weight 0.8"
PRUNING = "--max_seq_length 64 --num_train_epochs 4 --per_device_train_batch_size 16 --learning_rate 1e-4"
WIDTHS = {4: "1/3", 2: "1/6"}  # of 12 heads: about the work of so many of 12 layers


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kept_runs.add_flags(parser)
    parser.add_argument("--seed", type=non_negative_int, default=3, help="of the labelled rows and the runs (3)")
    parser.add_argument("--labelled", type=positive_int, default=LABELLED, help=f"labelled rows ({LABELLED})")
    parser.add_argument("--alone", default=ALONE, help="flags of train.py without a teacher (ALONE in this file)")
    parser.add_argument("--taught", default=TAUGHT, help="flags of train.py with a teacher (TAUGHT in this file)")
    parser.add_argument("--pruning", default=PRUNING, help="flags of prune.py (PRUNING in this file)")
    e5_model.add_flag(parser)
    return parser.parse_args(argv)


def planned(args):
    """The runs, in their order; the first is the teacher, which the others need."""
    common = {"set": SET, "seed": args.seed, "labelled": args.labelled}
    yield Run(f"teacher-seed{args.seed}", {**common, "model": LAYERS, "flags": args.alone}, local=True)
    for way, flags in (("alone", args.alone), ("taught", args.taught)):
        for model in (*WIDTHS, "linear"):
            name = model if model == "linear" else f"layers{model}"
            used = {**common, "model": model, "way": way, "flags": linear_flags(flags) if model == "linear" else flags}
            yield Run(f"{name}-{way}-seed{args.seed}", used | ({"teacher": args.alone} if way == "taught" else {}))
    widths = {**common, "model": [*WIDTHS.values()], "flags": args.pruning, "way": "pruned", "teacher": args.alone}
    yield Run(f"widths-seed{args.seed}", widths)


def linear_flags(flags):
    """What of the flags a linear model has a use for."""
    words = flags.split()
    return f"--teacher_weight {words[words.index('--teacher_weight') + 1]}" if "--teacher_weight" in words else ""


def make_data(folder, settings):
    """Writes train.txt, held.txt, dev.txt, label.txt and the unlabelled more.txt to a folder."""
    labels, rows = read_set(DATA / settings["set"], "train.txt")
    order = np.random.default_rng(settings["seed"]).permutation(len(rows))
    chosen, others = np.sort(order[: settings["labelled"]]), np.sort(order[settings["labelled"] :])
    source = folder / "labelled"
    source.mkdir()
    write_rows(source / "train.txt", rows, chosen, labels)
    for file in ("dev.txt", "label.txt"):
        (source / file).symlink_to(DATA / settings["set"] / file)
    hold_out(source, HELD, settings["seed"], folder)
    (folder / "more.txt").write_text("".join(f"{rows.texts[i]}\n" for i in others), encoding="utf-8")


def measure(bundle, folder):
    """F1 on dev with the threshold 0.5, "plain", and with those fitted to held, "fitted"; "mib", "texts_per_second"."""
    from text_cls.serving.predictor import Predictor

    labels, held, dev = read_set(folder, "held.txt", "dev.txt")
    predictor, count = Predictor(str(bundle)), len(labels)
    fit = thresholds.fitter(Decision(), "both", True, False, labels.parents)
    fitted = fit(predictor.probabilities(list(held.texts)), held.multi_hot(count))
    found, gold = predictor.probabilities(list(dev.texts)), dev.multi_hot(count)
    scores = {
        way: micro_macro(gold, decision.decide(found, labels.parents), labels.parents)
        for way, decision in (("plain", Decision()), ("fitted", fitted))
    }
    mib = (Path(bundle) / "model.onnx").stat().st_size / 2**20
    return {**scores, "mib": mib, "texts_per_second": texts_per_second(predictor, list(dev.texts))}


def execute(run, teacher, wheel):
    """Does a run. teacher: the `Run` whose checkpoint the students learn from."""
    model, flags, way = run.settings["model"], run.settings["flags"].split(), run.settings.get("way")
    if way in ("taught", "pruned") and teacher.result() is None:
        raise SystemExit(f"{run.name} needs {teacher.name}, which is not finished")
    checkpoint = run.folder / "checkpoint"
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        make_data(folder, run.settings)
        where = ("--dataset_dir", folder, "--device", "cpu", "--seed", run.settings["seed"])
        if way == "pruned":
            return prune(run, teacher, folder, where, flags)
        words = ["--dev_file", "held.txt", "--save_dir", checkpoint]
        if way == "taught":
            words += ["--teacher", teacher.folder / "checkpoint", "--unlabelled", "more.txt"]
        if model == "linear":
            words += ["--model_name", "linear"]
        else:
            words += ["--resume", "--save_minutes", 3, "--logging_steps", 50]
            words += ["--layers", model] if model != LAYERS else []
            words += ["--model_name", e5_model.make(LAYERS, wheel)] if way != "taught" else []
        run.script("train.py", *where, *words, *flags)
        run.script("export_model.py", "--params_path", checkpoint, "--output_path", run.folder / "export")
        return measure(run.folder / "export", folder)


def prune(run, teacher, folder, where, flags):
    """Prunes the teacher. Returns {"widths": {width: what `measure` returns}}."""
    data = folder / "pruning"  # in which the held rows choose the best step
    data.mkdir()
    for name, file in (("train.txt", "train.txt"), ("dev.txt", "held.txt"), ("label.txt", "label.txt")):
        (data / name).symlink_to(folder / file)
    words = ["--params_dir", teacher.folder / "checkpoint", "--output_dir", run.folder / "pruned"]
    words += ["--width_mult_list", *WIDTHS.values()]
    run.script("prune.py", *where[2:], "--dataset_dir", data, *words, *flags)
    folders = {width: next((run.folder / "pruned").glob(f"width_mult_{_rounded(width)}")) for width in WIDTHS.values()}
    return {"widths": {width: measure(bundle, folder) for width, bundle in folders.items()}}


def _rounded(width):
    top, bottom = map(int, width.split("/"))
    return round(top / bottom, 2)


def lines_of(finished):
    """(name, what `measure` returned) of each model."""
    for run, result in finished:
        if "widths" in result:
            yield from ((f"width {width}", found) for width, found in result["widths"].items())
        else:
            yield run.name.rpartition("-seed")[0], result


def show(finished):
    """Prints the table, and which share of the gap to the teacher each student closes."""
    found = dict(lines_of(finished))
    print("| model | micro F1 | macro F1 | micro F1, thresholds | macro F1, thresholds | MiB | texts/s | gap closed |")
    print(f"|{' --- |' * 8}")
    for name, result in found.items():
        alone, teacher = found.get(name.replace("taught", "alone")), found.get("teacher")
        gap = ""
        if name.endswith("taught") and alone and teacher:
            gap = ", ".join(
                f"{(result['plain'][i] - alone['plain'][i]) / (teacher['plain'][i] - alone['plain'][i]):.0%}"
                if teacher["plain"][i] > alone["plain"][i]
                else "no gap"
                for i in range(2)
            )
        scores = [f"{value:.2f}" for way in ("plain", "fitted") for value in result[way]]
        cells = name, *scores, f"{result['mib']:.1f}", f"{result['texts_per_second']:.0f}", gap
        print(f"| {' | '.join(cells)} |")
    print(f"\nCPU hours of these runs: {sum(result['cpu_seconds'] for _, result in finished) / 3600:.2f}")


def main(argv=None):
    args = parse_args(argv)
    runs = list(planned(args))
    finished = kept_runs.finish(args, runs, lambda run: execute(run, runs[0], args.wheel))
    if finished and not args.list:
        show(finished)
    return 0


if __name__ == "__main__":
    sys.exit(main())
