"""Hugging Face's Trainer and SetFit, as benchmarks/trainers.py runs them in .venv-bench. It makes the folder.

    .venv-bench/bin/python benchmarks/hf_trainer.py trainer FOLDER --seed 3 --epochs 4

Writes the probabilities of the dev rows to FOLDER/probabilities.npy.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(next(p for p in Path(__file__).resolve().parents if Path(p, "text_cls").is_dir())))

from text_cls.cli import non_negative_float, non_negative_int, positive_int
from text_cls.probabilities import sigmoid
from text_cls.scores import scores


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("side", choices=("trainer", "setfit"), help="what trains")
    parser.add_argument("folder", type=Path, help="folder with encoder/ and tokens.npz")
    parser.add_argument("--seed", type=non_negative_int, default=3, help="seed (%(default)s)")
    parser.add_argument("--epochs", type=positive_int, default=4, help="passes over the rows (%(default)s)")
    parser.add_argument("--batch_size", type=positive_int, default=16, help="rows per step (%(default)s)")
    parser.add_argument("--learning_rate", type=non_negative_float, default=1e-4, help="peak rate (%(default)s)")
    parser.add_argument("--warmup_steps", type=non_negative_float, default=0.1, help="share of all steps (%(default)s)")
    parser.add_argument("--by_length", action="store_true", help="batches of rows of similar length (off)")
    return parser.parse_args(argv)


def read_split(folder, name):
    """[token ids of each row], and labels as a float32 array [rows, labels]."""
    data = np.load(folder / "tokens.npz")
    ids = np.split(data[f"{name}_ids"], data[f"{name}_offsets"][1:-1])
    return [row.tolist() for row in ids], data[f"{name}_labels"]


def word(token):
    """A token's id as a word: of equal length, so that no word is part of another one."""
    return f"{token:06}"


def number_tokenizer(encoder, example):
    """A tokenizer of texts that are token ids, so that all sides get the same ids: [CLS] 5 7 [SEP] from "5 7".

    encoder: folder of the model. example: ids of a text, of which the first and last are [CLS] and [SEP].
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    config = json.loads((encoder / "config.json").read_text(encoding="utf-8"))
    first, last, padding = word(example[0]), word(example[-1]), word(config["pad_token_id"])
    vocabulary = {word(i): i for i in range(config["vocab_size"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=padding))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    ends = [(first, example[0]), (last, example[-1])]
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{first} $A {last}", special_tokens=ends)
    names = {"pad_token": padding, "unk_token": padding, "cls_token": first, "sep_token": last}
    length = config["max_position_embeddings"]
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=length, **names)


def as_text(ids):
    return " ".join(map(word, ids[1:-1]))


def run_trainer(args, tokenizer):
    """Probabilities of dev by the epoch that is best on the held rows."""
    from transformers import AutoModelForSequenceClassification, Trainer, TrainingArguments

    parts = {}
    for name in ("train", "held", "dev"):
        rows, labels = read_split(args.folder, name)
        parts[name] = [{"input_ids": ids, "labels": row.tolist()} for ids, row in zip(rows, labels)]
    model = AutoModelForSequenceClassification.from_pretrained(
        args.folder / "encoder", num_labels=labels.shape[1], problem_type="multi_label_classification"
    )
    settings = TrainingArguments(
        output_dir=str(args.folder / "trainer"),
        num_train_epochs=args.epochs,
        per_device_train_batch_size=args.batch_size,
        per_device_eval_batch_size=32,
        learning_rate=args.learning_rate,
        warmup_steps=args.warmup_steps,
        train_sampling_strategy="group_by_length" if args.by_length else "random",
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=1,
        load_best_model_at_end=True,
        metric_for_best_model="macro_f1",
        seed=args.seed,
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
    )

    def measure(prediction):
        return scores(prediction.label_ids > 0, prediction.predictions > 0)

    data = {"train_dataset": parts["train"], "eval_dataset": parts["held"]}
    trainer = Trainer(model, settings, processing_class=tokenizer, compute_metrics=measure, **data)
    trainer.train()
    return sigmoid(trainer.predict(parts["dev"]).predictions)


def run_setfit(args, tokenizer):
    """Probabilities of dev after as many texts as `epochs` passes have; SetFit's own settings for the rest."""
    from datasets import Dataset
    from setfit import SetFitModel, Trainer, TrainingArguments

    tokenizer.save_pretrained(args.folder / "encoder")
    rows, labels = read_split(args.folder, "train")
    strategy = {"multi_target_strategy": "one-vs-rest", "device": "cpu"}
    model = SetFitModel.from_pretrained(str(args.folder / "encoder"), **strategy)  # averages the tokens' vectors, as E5
    assert model.model_body.tokenizer([*map(as_text, rows)])["input_ids"] == rows
    settings = TrainingArguments(
        output_dir=str(args.folder / "setfit"),
        num_epochs=1,
        num_iterations=max(1, round(args.epochs / 4)),  # one makes two pairs of each text, each with another text
        seed=args.seed,
        report_to="none",
        save_strategy="no",
    )
    data = Dataset.from_dict({"text": [*map(as_text, rows)], "label": labels.astype(int).tolist()})
    Trainer(model, settings, train_dataset=data).train()
    return model.predict_proba([as_text(ids) for ids in read_split(args.folder, "dev")[0]], as_numpy=True)


def main(argv=None):
    args = parse_args(argv)
    tokenizer = number_tokenizer(args.folder / "encoder", read_split(args.folder, "train")[0][0])
    run = run_trainer if args.side == "trainer" else run_setfit
    np.save(args.folder / "probabilities.npy", np.asarray(run(args, tokenizer), dtype=np.float32))
    return 0


if __name__ == "__main__":
    sys.exit(main())
