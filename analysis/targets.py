"""A checkpoint or a bundle as the target of a script: it predicts, and its decision can be replaced."""

import os

from text_cls.cli import Problems, UserError
from text_cls.language import tr
from text_cls.reference import make_reference, read_reference
from text_cls.rows import read_labels
from utils import open_model, predict_texts


class CheckpointTarget:
    """Labels, decision, reference and predictions of a checkpoint, whose decision can be replaced.

    args: the flags of `utils.add_model_flags`; for a bundle, `bundle` as well.
    """

    def __init__(self, args, problems):
        self.args = args
        self.checkpoint, self.max_seq_length = open_model(args, problems)
        self.labels, self.decision = self.checkpoint.labels, self.checkpoint.decision
        self.folder, self.reference = args.params_path, self.checkpoint.reference
        self.path = os.path.join(args.params_path, "decision.json")
        self.unread = 0  # texts so far that were not read to their end

    @property
    def long_texts(self):
        return self.checkpoint.long_texts

    def predict(self, texts):
        """The probabilities of texts, float32 [texts, labels], and their tokens as `reference.token_counts` does."""
        from text_cls.neural.checkpoint import load_model

        if self.checkpoint.model is None:
            load_model(self.checkpoint, self.args.device)
        found = predict_texts(self.checkpoint, texts, self.max_seq_length, self.args.batch_size)
        self.unread += found.unread
        return found.probabilities, found.tokens

    def problem(self):
        """Why `write` could not write, or None."""
        return None

    def write(self, decision, reference):
        """Replaces decision and reference."""
        from text_cls.neural.checkpoint import update_checkpoint
        from text_cls.neural.run_file import read_run

        run = read_run(self.args.params_path)
        if run != self.checkpoint.run:
            raise UserError(
                tr(
                    "{params_path} was replaced by a training meanwhile; run it again",
                    params_path=self.args.params_path,
                )
            )
        if not run:  # a model of PaddleNLP's application
            decision.save(self.path, self.labels.names)
            reference.write(self.args.params_path)
        else:
            update_checkpoint(self.args.params_path, run, self.labels, decision, reference)


class BundleTarget:
    """The same for a bundle, on ONNX Runtime without Paddle."""

    def __init__(self, args, problems):
        from text_cls.serving import open_predictor

        self.args = args
        device, colon, number = args.device.partition(":")
        if device not in ("cpu", "gpu") or (colon and not number.isdigit()):
            raise UserError(tr("--device {device}: a bundle runs on cpu, gpu, or one card: gpu:0", device=args.device))
        self.predictor = open_predictor(
            args.bundle,
            device=device,
            device_id=int(number or 0),
            batch_size=args.batch_size,
            max_seq_length=args.max_seq_length,
        )
        self.labels, self.decision = self.predictor.labels, self.predictor.decision
        self.folder, self.reference = args.bundle, read_reference(args.bundle)
        self.path = os.path.join(args.bundle, "decision.json")

    @property
    def long_texts(self):
        return self.predictor.long_texts

    @property
    def unread(self):
        return self.predictor.unread

    def predict(self, texts):
        return self.predictor.probabilities_and_tokens(list(texts))

    def problem(self):
        from text_cls.bundle import strange_files_problem

        path = os.path.join(self.args.dataset_dir, self.args.label_file)
        if os.path.exists(path) and not read_labels(path, Problems(), of_model=True).same_as(self.labels):
            return tr(
                "{path} is not the bundle's label file; to use the bundle's: cp {bundle}/label.txt {path}",
                path=path,
                bundle=self.args.bundle,
            )
        return strange_files_problem(self.predictor.bundle)

    def write(self, decision, reference):
        from text_cls.bundle import replace_decision

        replace_decision(self.predictor.bundle, decision, reference)


def refer_to(target, decision, rows, probabilities, tokens):
    """The `Reference` of a target that predicts labelled rows. probabilities, tokens: of `predict`."""
    gold = rows.multi_hot(len(target.labels))
    return make_reference(rows.path, target.labels, decision, probabilities, gold, tokens)
