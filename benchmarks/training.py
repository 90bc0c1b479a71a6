"""Training speed on a CPU: train.py beside PaddleNLP's plain loop and Hugging Face transformers on PyTorch.

    make bench-setup                          # puts PyTorch into .venv-bench: it clashes with PaddleNLP
    .venv/bin/python benchmarks/training.py   # ernie-3.0-nano-zh's dimensions
    .venv/bin/python benchmarks/training.py --model ernie-3.0-medium-zh --rows 128

Every side trains on the same rows of duee with the same dimensions, batch size and maximum length, from random weights.
Each runs in its own process and waits while another works; a round is one pass over the rows by each in turn. Prints
the median texts per second, their range, and the median of the ratios round by round.

  train.py          this project: threads set, batches of similar length
  plain             the loop of PaddleNLP's application, Paddle as installed: random batches, each padded to its longest
  plain, threads    the same with OMP_NUM_THREADS (and MKL_DEBUG_CPU_TYPE on AMD) set as train.py sets them
  torch             transformers' BERT on PyTorch, random batches padded to their longest (its Trainer's default)
  torch, buckets    the same with train.py's batches of similar length (the rule of its Trainer's length grouping)
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(next(p for p in Path(__file__).resolve().parents if Path(p, "text_cls").is_dir())))

import workers
from project import DATA, ROOT, processor
from random_model import dimensions_and_tokenizer, random_bert
from text_cls.batching import shuffled_batches
from text_cls.cli import positive_int

SET_BY_TRAIN_PY = ("OMP_NUM_THREADS", "MKL_DEBUG_CPU_TYPE")  # "plain" must inherit neither
SIDES = ("train.py", "plain", "plain, threads", "torch", "torch, buckets")


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="ernie-3.0-nano-zh", help="PaddleNLP model to imitate (%(default)s)")
    parser.add_argument("--rows", type=positive_int, default=512, help="rows to train on (%(default)s)")
    parser.add_argument("--batch_size", type=positive_int, default=32, help="rows per step (%(default)s)")
    parser.add_argument(
        "--max_seq_length", type=positive_int, default=128, help="maximum tokens per text (%(default)s)"
    )
    parser.add_argument("--rounds", type=positive_int, default=5, help="timed passes by each side (%(default)s)")
    parser.add_argument("--sides", nargs="+", default=SIDES, choices=SIDES, help="sides to measure (all)")
    parser.add_argument("--dataset_dir", default=str(DATA / "duee"), help="folder of the data (%(default)s)")
    python = str(ROOT / ".venv-bench/bin/python")
    parser.add_argument("--torch_python", default=python, help="Python with PyTorch (%(default)s)")
    parser.add_argument("--worker", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


# -------------------------------------------------------------------------------------------------------------- workers


def dimensions(folder):
    return json.loads((folder / "config.json").read_text(encoding="utf-8"))


def padded_batches(folder, batch_size, by_length, seed):
    """(input_ids, labels) of random batches of the rows in tokens.npz, each padded to its longest."""
    data = np.load(folder / "tokens.npz")
    lengths = np.diff(data["offsets"])
    for rows in shuffled_batches(lengths, batch_size, seed, by_length):
        ids = np.zeros((len(rows), lengths[rows].max()), dtype=np.int64)
        for i, row in enumerate(rows):
            ids[i, : lengths[row]] = data["input_ids"][data["offsets"][row] : data["offsets"][row + 1]]
        yield ids, data["labels"][rows]


def worker_train_py(args):
    from text_cls.neural.compat import import_paddle

    import_paddle()
    import train
    from text_cls.decision import Decision
    from text_cls.neural.checkpoint import Checkpoint
    from text_cls.neural.model import encode, load_pretrained, set_device
    from text_cls.neural.run_state import Progress, StopSignal
    from text_cls.neural.training import make_trainer
    from text_cls.neural.training_options import TrainingOptions
    from text_cls.neural.used_vocabulary import use_vocabulary

    flags = {
        "dataset_dir": args.dataset_dir,
        "dev_file": "train.txt",
        "model_name": str(args.folder),
        "device": "cpu",
        "batch_size": args.batch_size,
        "max_seq_length": args.max_seq_length,
        "max_train_samples": args.rows,
        "epochs": 1000,
        "logging_steps": 1000000,
        "save_dir": f"{args.folder}/checkpoint",
    }
    train_args = train.parse_args([f"--{name}={value}" for name, value in flags.items()])
    labels, rows, _ = train.read_data(train_args)
    set_device("cpu")
    rows["train"] = rows["train"].sample(args.rows, train_args.seed)
    model, tokenizer = load_pretrained(str(args.folder), len(labels))
    tokens = {"train": encode(rows["train"].texts, tokenizer, model, args.max_seq_length)}
    options = TrainingOptions.from_args(train_args)
    use_vocabulary(model, options, tokens.values())
    checkpoint = Checkpoint(model, tokenizer, labels, Decision(), {"card": {}})
    trainer = make_trainer(options, checkpoint, rows, tokens, Progress())

    class NoBar:
        def update(self, steps):
            pass

    stop = StopSignal()
    stop.number = 0

    def one_pass():
        trainer.train_epoch(stop, NoBar())
        trainer.progress.epoch, trainer.progress.batch = trainer.progress.epoch + 1, 0

    return one_pass


def worker_plain(args):
    if args.worker == "plain, threads":
        from text_cls.neural.compat import prepare_environment

        prepare_environment()
    import paddle
    from paddlenlp.transformers import ErnieForSequenceClassification

    num_labels = dimensions(args.folder)["labels"]
    model = ErnieForSequenceClassification.from_pretrained(str(args.folder), num_labels=num_labels)
    optimizer = paddle.optimizer.AdamW(3e-5, parameters=model.parameters())
    criterion = paddle.nn.BCEWithLogitsLoss()
    model.train()
    seed = iter(range(10**6))

    def one_pass():
        for ids, labels in padded_batches(args.folder, args.batch_size, False, next(seed)):
            loss = criterion(model(paddle.to_tensor(ids)), paddle.to_tensor(labels))
            loss.backward()
            optimizer.step()
            optimizer.clear_grad()
        float(loss)

    return one_pass


def worker_torch(args):
    import torch

    config = dimensions(args.folder)
    model = random_bert(config, config["labels"])
    optimizer = torch.optim.AdamW(model.parameters(), 3e-5)
    model.train()
    seed = iter(range(10**6))
    criterion = torch.nn.BCEWithLogitsLoss()

    def one_pass():
        for ids, labels in padded_batches(args.folder, args.batch_size, "buckets" in args.worker, next(seed)):
            ids = torch.from_numpy(ids)
            loss = criterion(model(input_ids=ids, attention_mask=(ids != 0).long()).logits, torch.from_numpy(labels))
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        loss.item()

    return one_pass


def serve(one_pass):
    """Answers each request with the seconds of one pass. The first pass, before that, is not timed."""
    one_pass()
    workers.tell("ready")

    def seconds_of(request):
        started = time.perf_counter()
        one_pass()
        return time.perf_counter() - started

    workers.serve(seconds_of)


# --------------------------------------------------------------------------------------------------------------- driver


def prepare(args, folder):
    """Writes a model with random weights, its tokenizer for the rows' characters, and the rows as tokens."""
    from text_cls.neural.compat import import_paddle

    import_paddle()
    from paddlenlp.transformers import ErnieModel

    from public_sets import read_set
    from text_cls.neural.model import encode

    labels, rows = read_set(Path(args.dataset_dir), "train.txt")
    rows = rows.sample(args.rows, seed=3)
    config, tokenizer = dimensions_and_tokenizer(folder, args.model, [f"{args.dataset_dir}/train.txt"])
    model = ErnieModel(config)
    model.save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))
    saved = dimensions(folder)
    (folder / "config.json").write_text(json.dumps({**saved, "labels": len(labels)}), encoding="utf-8")
    tokens = encode(rows.texts, tokenizer, model, args.max_seq_length)
    np.savez(
        folder / "tokens.npz",
        input_ids=tokens.columns["input_ids"],
        offsets=tokens.offsets,
        labels=rows.multi_hot(len(labels), dtype=np.float32),
    )
    size = sum(parameter.size for parameter in model.parameters()) / 1e6
    print(
        f"{args.model}: {size:.1f} million parameters, {len(rows)} rows of {Path(args.dataset_dir).name}, "
        f"{tokens.lengths.mean():.1f} tokens per row, batch {args.batch_size}, maximum {args.max_seq_length}, "
        f"{len(os.sched_getaffinity(0))} cores, {processor()}"
    )


def main(argv=None):
    args = parse_args(argv)
    if args.worker:
        make = {"train.py": worker_train_py, "plain": worker_plain, "torch": worker_torch}
        serve(make[args.worker.split(",")[0]](args))
        return 0
    sides, seconds = {}, {side: [] for side in args.sides}
    as_installed = {name: value for name, value in os.environ.items() if name not in SET_BY_TRAIN_PY}
    with tempfile.TemporaryDirectory() as folder:
        prepare(args, Path(folder))
        for side in args.sides:
            python = args.torch_python if side.startswith("torch") else sys.executable
            same = ("rows", "batch_size", "max_seq_length", "dataset_dir")
            flags = [f"--worker={side}", f"--folder={folder}", *(f"--{name}={getattr(args, name)}" for name in same)]
            sides[side] = workers.start(python, __file__, flags, as_installed)
            workers.next_answer(sides[side])  # ready
        for _ in range(args.rounds):
            for side, worker in sides.items():
                seconds[side].append(workers.ask(worker, "pass"))
        workers.end(sides.values())
    print(f"{'side':16} {'texts/s':>8} {'range':>15} {'train.py is faster by':>22}")
    for side in args.sides:
        speeds = [args.rows / value for value in seconds[side]]
        ratio = statistics.median(theirs / ours for theirs, ours in zip(seconds[side], seconds[args.sides[0]]))
        span = f"{min(speeds):.1f}-{max(speeds):.1f}"
        print(f"{side:16} {statistics.median(speeds):8.1f} {span:>15} {ratio:21.2f}x")
    return 0


if __name__ == "__main__":
    sys.exit(main())
