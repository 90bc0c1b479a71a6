"""Inference speed on a CPU: the bundle's predictor beside PaddleNLP's application, Paddle, PyTorch and OpenVINO.

    make bench-setup                                   # PyTorch and OpenVINO live in .venv-bench
    .venv/bin/python benchmarks/inference.py           # ernie-3.0-medium-zh's dimensions, duee and cail-divorce

Every side predicts the same texts with the same random weights, batch 32, maximum length 128, two threads. Each runs in
its own process and waits while another works; a round is one pass by each in turn. Prints the median texts per second
and their range from texts to labels, the median ratios round by round, and the median of the model alone.

  older            PaddleNLP's application: its tokenizer, all texts padded to the longest, the graph of Paddle2ONNX
  predict.py       this project on Paddle's dynamic graph, as predict.py does with few rows
  predict.py, onnx this project as predict.py does with many rows: the ONNX graph of the model, made beforehand
  paddle, onednn   Paddle Inference with oneDNN on the static graph, batches in file order, each padded to its longest
  torch            transformers' BERT on PyTorch, its Rust tokenizer, batches in file order, each padded to its longest
  openvino         OpenVINO on the graph of Paddle2ONNX, batches as for torch
  torch, sorted; openvino, sorted   the same with batches of similar length, as this project makes them
  float32, int8    the bundle's predictor, which makes its own batches of at most 32 x 128 tokens

"of limit" compares the floating-point operations per second, padding left out, with the fastest large matrix product
of NumPy and PyTorch in the same run. Counted is what a side computes: this project's ONNX graph computes the last layer
for the first token only. int8 may exceed 100%: it does not compute in floating point.
"""

import argparse
import contextlib
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
from project import ROOT
from random_model import random_bert, random_checkpoint, read_dev
from text_cls.batching import sorted_batches
from text_cls.cli import positive_int

SORTED = ("torch, sorted", "openvino, sorted")
ALL_OF_LAST_LAYER = ("older", "predict.py", "paddle, onednn", "torch", "openvino", *SORTED)
SIDES = (*ALL_OF_LAST_LAYER, "predict.py, onnx", "float32", "int8")
BATCH, LENGTH, THREADS = 32, 128, 2
UNTIL_THE_END = contextlib.ExitStack()  # of this process


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="ernie-3.0-medium-zh", help="PaddleNLP model to imitate (%(default)s)")
    parser.add_argument("--sets", nargs="+", default=["duee", "cail-divorce"], help="public sets (duee cail-divorce)")
    parser.add_argument(
        "--rows", type=positive_int, default=256, help="dev rows to predict, drawn by seed (%(default)s)"
    )
    parser.add_argument("--rounds", type=positive_int, default=5, help="timed passes by each side (%(default)s)")
    parser.add_argument("--sides", nargs="+", default=SIDES, choices=SIDES, help="sides to measure (all)")
    python = str(ROOT / ".venv-bench/bin/python")
    parser.add_argument("--bench_python", default=python, help="Python with PyTorch and OpenVINO (%(default)s)")
    parser.add_argument("--worker", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


# -------------------------------------------------------------------------------------------------------------- workers
# Each makes a function: texts -> (seconds from texts to labels, seconds of the model alone).


def batches_of(lengths, side):
    """Row numbers of batches of 32: of similar length for the sides in SORTED, else in file order."""
    if side in SORTED:
        return sorted_batches(np.asarray(lengths), BATCH)
    return [np.arange(start, min(start + BATCH, len(lengths))) for start in range(0, len(lengths), BATCH)]


def timed(tokenise, compute):
    from text_cls.probabilities import sigmoid

    def one_pass(texts):
        started = time.perf_counter()
        tokens = tokenise(texts)
        before = time.perf_counter()
        logits = compute(tokens)
        after = time.perf_counter()
        labels = sigmoid(logits) > 0.5
        assert labels.shape[0] == len(texts)
        return time.perf_counter() - started, after - before

    return one_pass


def ort_session(path):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def worker_older(folder):
    from text_cls.neural.compat import import_paddle

    import_paddle()
    from paddlenlp.transformers import AutoTokenizer

    tokenizer, session = AutoTokenizer.from_pretrained(str(folder / "export")), ort_session(folder / "raw.onnx")

    def tokenise(texts):
        tokens = tokenizer(texts, max_length=LENGTH, padding=True, truncation=True)
        return {name: np.array(tokens[name], dtype=np.int64) for name in ("input_ids", "token_type_ids")}

    def compute(tokens):
        starts = range(0, len(tokens["input_ids"]), BATCH)
        pieces = ({name: values[start : start + BATCH] for name, values in tokens.items()} for start in starts)
        return np.concatenate([session.run(None, piece)[0] for piece in pieces])

    return timed(tokenise, compute)


def worker_predict_py(folder, side):
    from text_cls.neural.compat import prepare_environment

    os.environ["OMP_NUM_THREADS"] = str(THREADS)
    prepare_environment()
    from small_model import open_trained
    from text_cls.neural.model import encode, predict_logits

    checkpoint = open_trained(folder / "checkpoint")
    if side == "predict.py, onnx":
        from text_cls.neural import onnx_logits

        UNTIL_THE_END.enter_context(onnx_logits.onnx_logits(checkpoint, onnx_logits.ENOUGH))
    return timed(
        lambda texts: encode(texts, checkpoint.tokenizer, checkpoint.model, LENGTH),
        lambda tokens: predict_logits(checkpoint.model, tokens, BATCH),
    )


def worker_paddle(folder):
    from text_cls.serving.predictor import Predictor

    tokens_of = Predictor(str(folder / "export"), max_seq_length=LENGTH).encode  # faster than PaddleNLP's
    from paddle import inference

    prefix = str(folder / "export" / "float32")
    config = inference.Config(f"{prefix}.pdmodel", f"{prefix}.pdiparams")
    config.disable_glog_info()
    config.enable_mkldnn()
    config.set_mkldnn_cache_capacity(0)
    config.set_cpu_math_library_num_threads(THREADS)
    session = inference.create_predictor(config)
    inputs = {name: session.get_input_handle(name) for name in session.get_input_names()}
    output = session.get_output_handle(session.get_output_names()[0])

    def run(batch):
        for name, handle in inputs.items():
            handle.copy_from_cpu(batch[name])
        session.run()
        return output.copy_to_cpu()

    def compute(tokens):
        return np.concatenate([run(tokens.batch(rows)) for rows in batches_of(tokens.lengths, "paddle, onednn")])

    return timed(tokens_of, compute)


def worker_torch(folder, side):
    import torch
    from transformers import BertTokenizerFast

    torch.set_num_threads(THREADS)
    config = json.loads((folder / "checkpoint" / "config.json").read_text(encoding="utf-8"))
    model = random_bert(config, len(config["id2label"])).eval()
    tokenizer = BertTokenizerFast(str(folder / "export" / "vocab.txt"))

    def tokenise(texts):
        flags = {"max_length": LENGTH, "truncation": True, "padding": True, "return_tensors": "pt"}
        batches = batches_of([*map(len, texts)], side)
        return [tokenizer([texts[row] for row in rows], **flags) for rows in batches]

    def compute(batches):
        with torch.inference_mode():
            return np.concatenate([model(**batch).logits.numpy() for batch in batches])

    return timed(tokenise, compute)


def worker_openvino(folder, side):
    import openvino

    from text_cls.batching import Encoded
    from text_cls.tokenization import load_tokenizer

    hints = {"INFERENCE_NUM_THREADS": THREADS, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    model = openvino.Core().compile_model(str(folder / "raw.onnx"), "CPU", hints)
    tokenizer = load_tokenizer(str(folder / "export"))

    def tokenise(texts):
        rows = tokenizer.encode(texts, LENGTH)
        ids, offsets = np.concatenate(rows), np.cumsum([0, *map(len, rows)])
        columns = {"input_ids": ids, "token_type_ids": np.zeros_like(ids)}
        return Encoded(columns, offsets, dict.fromkeys(columns, 0), False, False, 0)

    def compute(tokens):
        return np.concatenate([model(tokens.batch(rows))[0] for rows in batches_of(tokens.lengths, side)])

    return timed(tokenise, compute)


def worker_bundle(folder, variant):
    from text_cls.serving.predictor import Predictor

    predictor = Predictor(str(folder / "export"), variant, num_threads=THREADS, max_seq_length=LENGTH)
    return timed(predictor.encode, predictor.run)


def matrix_rate(library):
    """Floating-point operations per second of the fastest of ten products of 2048 x 2048 matrices."""
    if library == "torch":
        import torch

        left = right = torch.rand(2048, 2048)
    else:
        left = right = np.random.default_rng(0).random((2048, 2048), dtype=np.float32)
    seconds = []
    for _ in range(10):
        started = time.perf_counter()
        left @ right
        seconds.append(time.perf_counter() - started)
    return 2 * 2048**3 / min(seconds)


def answer(request, one_pass, side):
    """To "rate" the matrix rate, to the path of a file of texts the seconds of a pass."""
    if request == "rate":
        return matrix_rate("torch" if side == "torch" else "numpy")
    return one_pass(json.loads(Path(request).read_text(encoding="utf-8")))


def work(args):
    side = args.worker
    if side in ("older", "paddle, onednn"):
        one_pass = {"older": worker_older, "paddle, onednn": worker_paddle}[side](args.folder)
    else:
        makers = {"predict.py": worker_predict_py, "torch": worker_torch, "openvino": worker_openvino}
        one_pass = makers.get(side.split(",")[0], worker_bundle)(args.folder, side)
    workers.serve(lambda request: answer(request, one_pass, args.worker))


# --------------------------------------------------------------------------------------------------------------- driver


def prepare(args, folder):
    """Makes a random checkpoint, its bundle with int8, and the graph of Paddle2ONNX. Returns the dimensions."""
    checkpoint = random_checkpoint(folder, args.model, args.sets, LENGTH)
    import paddle2onnx

    from text_cls.neural.compat import quiet_output
    from text_cls.neural.export import OPSET, bundle_folder
    from text_cls.neural.int8_graph import to_int8

    with bundle_folder(str(folder / "export"), checkpoint, "float32", LENGTH) as draft:
        to_int8(f"{draft.folder}/model.onnx", f"{draft.folder}/int8_model.onnx")
    prefix = str(folder / "export" / "float32")
    with quiet_output():
        paddle2onnx.export(
            f"{prefix}.pdmodel", f"{prefix}.pdiparams", str(folder / "raw.onnx"), opset_version=OPSET, verbose=False
        )
    return checkpoint.model.config


def operations(config, lengths, all_of_last_layer=True):
    """Floating-point operations of the encoder on rows of these lengths, without padding.

    all_of_last_layer: False to count, of the last layer, the keys and values of all tokens, but the query and what
        follows of the first token only.
    """
    hidden, inner, layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    lengths = lengths.astype(np.float64)
    keys_and_values = 4 * hidden**2
    others = 4 * hidden**2 + 4 * hidden * inner  # of a token: query, output and feed-forward
    whole = (keys_and_values + others) * lengths + 4 * hidden * lengths**2
    last = whole if all_of_last_layer else keys_and_values * lengths + others + 4 * hidden * lengths
    return float(((layers - 1) * whole + last).sum())


def start(args, folder, side):
    python = args.bench_python if side.startswith(("torch", "openvino")) else sys.executable
    environment = {name: value for name, value in os.environ.items() if name != "MKL_DEBUG_CPU_TYPE"}
    flags = [f"--worker={side}", f"--folder={folder}"]
    return workers.start(python, __file__, flags, {**environment, "OMP_NUM_THREADS": str(THREADS)})


def report(name, config, lengths, seconds, rate, args):
    print(f"\n{name}: {len(lengths)} dev rows, {lengths.mean():.1f} tokens per row; limit {rate / 1e9:.0f} GFLOP/s")
    rows = len(lengths)
    head = f"{'from texts to labels':>34} {'range':>15} {'/ older':>8} {'/ torch':>8} {'of limit':>9}"
    print(f"{'side':16}{head} {'model alone':>12}")
    for side in args.sides:
        whole, alone = zip(*seconds[side])
        ratios = [
            f"{statistics.median(theirs[0] / ours[0] for theirs, ours in zip(seconds[other], seconds[side])):.2f}x"
            if other in seconds
            else "-"
            for other in ("older", "torch")
        ]
        speed = rows / statistics.median(whole)
        span = f"{rows / max(whole):.1f}-{rows / min(whole):.1f}"
        flops = operations(config, lengths, side in ALL_OF_LAST_LAYER)
        share = flops / statistics.median(whole) / rate
        print(
            f"{side:16} {speed:26.1f} text/s {span:>15} {ratios[0]:>8} {ratios[1]:>8} {100 * share:8.0f}% "
            f"{rows / statistics.median(alone):12.1f}"
        )


def main(argv=None):
    args = parse_args(argv)
    if args.worker:
        work(args)
        return 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = prepare(args, folder)
        from text_cls.tokenization import load_tokenizer

        tokenizer, lengths = load_tokenizer(str(folder / "export")), {}
        for data in args.sets:
            texts = read_dev(data, args.rows)
            (folder / f"{data}.json").write_text(json.dumps(texts), encoding="utf-8")
            lengths[data] = np.array([len(ids) for ids in tokenizer.encode(texts, LENGTH)])
        sides = {side: start(args, folder, side) for side in args.sides}
        for data in args.sets:
            seconds, rates = {side: [] for side in args.sides}, []
            for round_number in range(args.rounds + 1):  # the first does not count
                for side, worker in sides.items():
                    answer = workers.ask(worker, str(folder / f"{data}.json"))
                    if round_number:
                        seconds[side].append(answer)
                rates += (workers.ask(sides[side], "rate") for side in {"torch", "float32"} & sides.keys())
            report(data, config, lengths[data], seconds, max(rates), args)
        workers.end(sides.values())
    return 0


if __name__ == "__main__":
    sys.exit(main())
