"""The steps of training: from a batch of rows to losses, gradients and new weights."""

import contextlib

import numpy as np

from text_cls.neural.layer_rates import layer_depths, rate_factor
from text_cls.neural.losses import smoothed
from text_cls.neural.model import logits_of
from text_cls.neural.training_state import load_training_state, training_state
from text_cls.neural.used_vocabulary import fit_moments

# On a CPU, Paddle's softmax (2.6 to 3.3) cuts its exponent at -64: padding keeps a probability of 1e-28, and gradients
# of 1e-35 and less flow back through it. Arithmetic on numbers that small (denormals) is up to 150 times slower. A loss
# scaled by a power of two keeps them out of that range and leaves every other bit of the gradients unchanged.
CPU_LOSS_SCALE = 2.0**24

KEPT = "kept"  # in the saved state

AMP_DTYPES = {"fp16": "float16", "bf16": "bfloat16"}


class Optimization:
    """AdamW with a linear schedule that advances with every update, and the loss scaler of fp16.

    Only weights decay, not biases and norms, as in the training of BERT.

    Attributes:
        encoder: the parameters below the head, which can be frozen.
        kept: what weight decay has left of a weight that gets no gradient; see used_vocabulary.py.
    """

    def __init__(self, model, options, total_steps):
        import paddle
        from paddlenlp.transformers import LinearDecayWithWarmup

        self.model = model
        self.loss_scale = CPU_LOSS_SCALE if options.device == "cpu" else 1.0
        warmup = options.warmup_steps if options.warmup_steps < 1 else int(options.warmup_steps)
        self.scheduler = LinearDecayWithWarmup(options.learning_rate, total_steps, warmup)
        self.encoder = self.set_rates(options)
        decayed = {p.name for n, p in model.named_parameters() if not any(w in n for w in ("bias", "norm"))}
        self.optimizer = paddle.optimizer.AdamW(
            learning_rate=self.scheduler,
            parameters=model.parameters(),
            weight_decay=options.weight_decay,
            apply_decay_param_fun=decayed.__contains__,
            grad_clip=paddle.nn.ClipGradByGlobalNorm(options.max_grad_norm) if options.max_grad_norm else None,
        )
        self.scaler = paddle.amp.GradScaler(enable=options.amp == "fp16")
        self.weight_decay, self.kept = options.weight_decay, 1.0

    def set_rates(self, options):
        """Scales the rate of each parameter. Returns the parameters of the encoder."""
        depths, encoder = layer_depths(self.model), []
        for name, parameter in self.model.named_parameters():
            # Of Paddle's other ways, `lr_ratio` fails on a CPU, and groups of parameters would be clipped one by one.
            parameter.optimize_attr["learning_rate"] = rate_factor(depths[name], options)
            if depths[name] is not None and parameter.trainable:
                encoder.append(parameter)
        return encoder

    def freeze_encoder(self, frozen):
        """Frozen, the encoder is computed without gradients and does not change."""
        for parameter in self.encoder:
            parameter.trainable = not frozen

    @property
    def rate(self):
        return self.optimizer.get_lr()

    def backward(self, loss):
        """Adds the gradients of a loss to those of the step."""
        self.scaler.scale(loss * self.loss_scale).backward()

    def update(self):
        """Updates the weights from the gradients of the step, then clears the gradients."""
        import paddle

        if self.loss_scale != 1:
            with paddle.no_grad():
                for parameter in self.model.parameters():
                    if parameter.grad is not None:
                        parameter.grad.scale_(1 / self.loss_scale)
        # The first step names the moments after a counter of the process. The guard makes it count from 0, so that
        # another process finds them again.
        with paddle.utils.unique_name.guard():
            self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.clear_grad()
        self.kept *= self.share_kept()
        self.scheduler.step()

    def share_kept(self):
        """What weight decay leaves of an unused word vector in this step."""
        if not self.weight_decay or not hasattr(self.model, "used_vocabulary"):
            return 1.0
        weight = self.model.used_vocabulary.layer.weight
        return 1.0 - self.rate * weight.optimize_attr["learning_rate"] * self.weight_decay if weight.trainable else 1.0

    def state(self):
        """What `load` needs besides the number of the step, as {name: array}."""
        kept = {KEPT: np.float64(self.kept)} if self.kept != 1 else {}
        return training_state(self.optimizer, self.scaler) | kept

    def load(self, state, step):
        """Continues after `step` updates from what `state` returned, which it empties. ValueError: it does not fit."""
        self.kept = float(state.pop(KEPT, 1.0))
        fit_moments(self.model, state)
        load_training_state(state, self.optimizer, self.scaler)
        self.scheduler.step(step)


class Steps:
    """The batches of the training rows, their losses and gradients. Each process computes its share of a batch.

    Args:
        checkpoint: `Checkpoint` with the model to train.
        rows, tokens: the training rows, and their tokens as `Encoded`.
        loss: function of logits and labels that returns a loss for each cell; see `make_loss`.
        layer: the Paddle layer that a step runs; the model by default.
    """

    targets = ("labels",)  # names of what `targets_of` returns

    def __init__(self, options, checkpoint, rows, tokens, loss=None, layer=None):
        import paddle

        self.options, self.checkpoint, self.rows, self.tokens, self.loss = options, checkpoint, rows, tokens, loss
        self.model = checkpoint.model
        self.rank, self.world = paddle.distributed.get_rank(), paddle.distributed.get_world_size()
        layer = self.model if layer is None else layer
        if self.world > 1:  # in frozen epochs, the encoder has no gradients to wait for
            layer = paddle.DataParallel(layer, find_unused_parameters=options.freeze_epochs > 0)
        self.layer = layer
        batches = -(-len(tokens) // (options.batch_size * self.world))
        self.per_epoch = -(-batches // options.gradient_accumulation_steps)
        self.total = self.per_epoch * options.epochs
        self.epoch = 0  # the current one

    def seed(self, step):
        """Makes dropout depend only on seed, step and process, so that resuming needs no generator's state."""
        import paddle

        paddle.seed((self.options.seed * 1_000_003 + step) * self.world + self.rank)

    def loss_count(self, batch):
        """Number of losses that a batch adds to the mean of its step, over all processes."""
        return len(batch)

    def inputs_of(self, batch):
        """The model's inputs, labels and weights for this process's share of a batch, as numpy arrays."""
        mine = batch[self.rank :: self.world]
        weight = np.ones(len(mine), dtype=np.float32)
        if not len(mine):  # all processes must take part in the exchange of gradients
            mine, weight = batch[:1], np.zeros(1, dtype=np.float32)
        return {**self.tokens.batch(mine), **self.targets_of(mine), "weight": weight}

    def targets_of(self, rows):
        """{name: numpy array} of what `compare` needs besides the logits of some rows."""
        return {"labels": self.rows.multi_hot(len(self.checkpoint.labels), rows, np.float32)}

    def parts_of(self, batch):
        """The `inputs_of` a batch, in as many parts as memory needs."""
        return [self.inputs_of(batch)]

    def loader(self, batches):
        """Yields the `parts_of` each batch as tensors, made by `num_workers` processes."""
        from paddle.io import DataLoader

        numbers = list(range(len(batches)))
        return DataLoader(
            numbers,
            batch_sampler=[[number] for number in numbers],
            collate_fn=lambda chosen: self.parts_of(batches[chosen[0]]),
            num_workers=self.options.num_workers,
        )

    def losses(self, inputs):
        """One loss per row: float32 tensor [rows]."""
        targets = {name: inputs.pop(name) for name in self.targets}
        return self.compare(self.logits(inputs), **targets)

    def compare(self, logits, labels):
        """One loss per row: float32 tensor [rows]. logits, labels: float32 tensors [rows, labels]."""
        return self.loss(logits, smoothed(labels, self.options.label_smoothing)).mean(axis=1)

    def logits(self, inputs):
        """float32 tensor [rows, labels]"""
        import paddle

        amp = self.options.amp
        # Without AMP the type has no effect, but must be one that Paddle knows.
        with paddle.amp.auto_cast(enable=amp is not None, dtype=AMP_DTYPES.get(amp, "float16")):
            return logits_of(self.layer, inputs).astype("float32")

    def backward_parts(self, parts, loss_count, optimization, exchange=True):
        """What `backward` does and returns, for a batch in parts."""
        *before, last = parts
        shares = [self.backward(inputs, loss_count, optimization, exchange=False) for inputs in before]
        return sum(shares, self.backward(last, loss_count, optimization, exchange))

    def backward(self, inputs, loss_count, optimization, exchange=True):
        """Adds the share of a batch, or of a part of it, to the gradients of a step.

        Args:
            loss_count: number of losses that the step averages over, in all its batches and processes.
            exchange: whether processes exchange gradients now, as they must in the last batch of a step.
        Returns:
            the batch's share of the step's mean loss, a tensor.
        """
        weight, waiting = inputs.pop("weight"), self.world > 1 and not exchange
        with self.layer.no_sync() if waiting else contextlib.nullcontext():
            # DataParallel averages over processes, hence the factor.
            loss = (self.losses(inputs) * weight).sum() * (self.world / loss_count)
            optimization.backward(loss)
        return loss.detach()
