"""The options of a training run. No Paddle, so that a script can build them before its slow imports."""

from dataclasses import dataclass, field, fields

from text_cls.long_texts import CUT, MAX, MOST, LongTexts


@dataclass(kw_only=True)
class Options:
    """Options of a script that the library needs, with the names of the flags."""

    @classmethod
    def from_args(cls, args, **renamed):
        """The options among parsed arguments. renamed: options that have another name in `args`, or none."""
        names = {field.name for field in fields(cls)}
        return cls(**{name: value for name, value in vars(args).items() if name in names}, **renamed)


@dataclass(kw_only=True)
class TrainingOptions(Options):
    """The options of `train.py`, with its defaults; its help explains them."""

    max_seq_length: int = 128
    long_texts: str = CUT
    stride: int | None = None
    max_windows: int = MOST
    window_pooling: str = MAX
    length_buckets: bool = True
    num_workers: int = 0

    model_name: str = "ernie-3.0-medium-zh"
    init_from_ckpt: str | None = None
    pooling: str | None = None
    layers: int | None = None
    device: str = "gpu"

    batch_size: int = 32
    learning_rate: float = 3e-5
    head_start: str | None = None
    epochs: int = 10
    early_stop: bool = False
    early_stop_nums: int = 4
    weight_decay: float = 0.0
    warmup: bool = False
    warmup_steps: float = 0
    head_learning_rate: float | None = None
    layer_decay: float = 1.0
    freeze_epochs: int = 0
    loss: str = "bce"
    label_smoothing: float = 0.0
    gradient_accumulation_steps: int = 1
    max_grad_norm: float = 0.0
    amp: str | None = None
    average: bool = False
    seed: int = 3

    save_dir: str = "./checkpoint"
    metric_for_best: str = "macro_f1"
    resume: bool = False
    save_minutes: float = 10
    logging_steps: int = 5
    tracker: list[str] = field(default_factory=list)
    tracker_dir: str = "./runs"
    visualdl_dir: str | None = None

    @property
    def reading(self) -> LongTexts:
        """How long texts are read."""
        return LongTexts(self.long_texts, self.stride, self.max_windows, self.window_pooling)
