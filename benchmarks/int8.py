"""The int8 variant on the public sets: F1, speed, dependence on a batch, beside float32 and ONNX Runtime's quantiser.

    python benchmarks/int8.py --checkpoints duee/checkpoint cail-divorce/checkpoint
    python benchmarks/int8.py --checkpoints duee/checkpoint --sets duee --list        # what is finished

Sides, all of the same checkpoint: float32; `int8`, as export_model.py --int8 writes it, with a scale per token and the
classifier in float32; `dynamic`, by onnxruntime.quantization.quantize_dynamic with a scale per batch, as int8 once was;
`static`, as int8, but with one fixed scale per tensor, from 256 rows of train.txt.

F1 is that of all of dev.txt. Speed is CPU seconds of the model alone in one thread, in the predictor's batches; the
sides take turns on the same rows, and a ratio is the median of the ratios of the rounds. "alone" is the largest change
of a logit when a text leaves its batch. What is finished is kept in benchmarks/results.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(next(p for p in Path(__file__).resolve().parents if Path(p, "text_cls").is_dir())))

import kept_runs
from kept_runs import Run
from project import DATA, processor, run_script
from public_sets import micro_macro, read_set
from text_cls.cli import positive_int
from text_cls.files import sha256

SIDES = ("float32", "int8", "dynamic", "static")
CALIBRATED, ALONE = 256, 100  # rows of train.txt for the fixed scales; rows of dev.txt that are also computed alone


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kept_runs.add_flags(parser)
    parser.add_argument("--checkpoints", nargs="+", type=Path, default=[], help="of train.py, one for each set (none)")
    parser.add_argument("--sets", nargs="+", default=["duee", "cail-divorce"], help="public sets (duee cail-divorce)")
    parser.add_argument("--rows", type=positive_int, default=500, help="dev rows that are timed (%(default)s)")
    parser.add_argument("--rounds", type=positive_int, default=5, help="timed passes by each side (%(default)s)")
    return parser.parse_args(argv)


def planned(args):
    """The runs, in their order. The file of the weights stands for a checkpoint."""
    for name, checkpoint in zip(args.sets, args.checkpoints, strict=True):
        weights = sha256(checkpoint / "model_state.pdparams")[:16]
        settings = {"set": name, "weights": weights, "rows": args.rows, "rounds": args.rounds, "sides": list(SIDES)}
        yield Run(f"int8-{name}", settings)


# -------------------------------------------------------------------------------------------------------------- graphs


def quantize_dynamic(source, target):
    """int8 with a scale for each batch."""
    import onnx
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization import quantize_dynamic as quantize

    more = {"MatMulConstBOnly": True, "DefaultTensorType": onnx.TensorProto.FLOAT}
    kinds = ["MatMul", "Gemm"]
    quantize(source, target, op_types_to_quantize=kinds, weight_type=QuantType.QInt8, extra_options=more)


def largest(source, names, batches):
    """{name of a tensor: the largest absolute value that it has in some batches}."""
    import onnx
    from onnx import helper

    model = onnx.load(source)
    model.graph.output.extend(helper.make_tensor_value_info(name, 1, None) for name in names)
    session, found = session_of(model.SerializeToString()), dict.fromkeys(names, 0.0)
    for batch in batches:
        for name, values in zip(names, session.run(names, batch)):
            found[name] = max(found[name], float(np.abs(values).max()))
    return found


def fix_scales(source, target, batches):
    """Writes the graph of `source`, of int8_graph.to_int8, with a constant in place of the scales of tokens."""
    import onnx
    from onnx import helper, numpy_helper

    model = onnx.load(source)
    graph = model.graph
    names = [node.output[0] for node in graph.node if node.output[0].endswith("_largest")]
    for name, value in largest(source, names, batches).items():
        tensor, scale = name.removesuffix("_largest"), np.float32(value / 127)
        graph.initializer.append(numpy_helper.from_array(scale, f"{tensor}_fixed"))
        inputs = [tensor, f"{tensor}_fixed", "int8_zero"]
        nodes = [node for node in graph.node if not node.name.startswith(f"{tensor}_int8_Reshape")]
        first = next(i for i, node in enumerate(nodes) if tensor in node.input)
        nodes.insert(first, helper.make_node("QuantizeLinear", inputs, [f"{tensor}_int8"]))
        products = [node for node in nodes if f"{tensor}_int8" in node.input]
        for product in products:
            product.input[2] = f"{tensor}_fixed"
            mul = next(node for node in nodes if product.output[0] in node.input)
            nodes.remove(mul)
            product.output[0] = mul.output[0]
        del graph.node[:]
        graph.node.extend(nodes)
    onnx.save(model, target)


def session_of(model):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


# -------------------------------------------------------------------------------------------------------------- a run


def logits_of(session, encoded, batches, columns):
    outputs = np.zeros((len(encoded), columns), np.float32)
    for rows in batches:
        outputs[rows] = session.run(None, encoded.batch(rows))[0]
    return outputs


def timed(sessions, encoded, batches, rounds):
    """{side: CPU seconds of each round}."""
    seconds = {side: [] for side in sessions}
    for number in range(rounds + 1):  # the first warms up
        for side, session in sessions.items():
            started = time.process_time()
            for rows in batches:
                session.run(None, encoded.batch(rows))
            if number:
                seconds[side].append(time.process_time() - started)
    return seconds


def measure(checkpoint, name, rows, rounds, folder):
    """The results of the sides, as JSON values."""
    from text_cls.batching import budget_batches
    from text_cls.neural.int8_graph import to_int8
    from text_cls.serving.predictor import Predictor

    run_script("export_model.py", "--params_path", checkpoint, "--output_path", folder / "export")
    predictor = Predictor(str(folder / "export"), num_threads=1)
    labels, train, dev = read_set(DATA / name, "train.txt", "dev.txt")

    def prepare(texts):
        encoded = predictor.encode(texts)
        return encoded, budget_batches(encoded.lengths, predictor.batch_tokens)

    files = {side: str(folder / f"{side}.onnx") for side in SIDES} | {"float32": str(folder / "export" / "model.onnx")}
    to_int8(files["float32"], files["int8"])
    quantize_dynamic(files["float32"], files["dynamic"])
    calibration, batches = prepare(list(train.texts)[:CALIBRATED])
    fix_scales(files["int8"], files["static"], map(calibration.batch, batches))
    sessions = {side: session_of(path) for side, path in files.items()}

    texts, gold = list(dev.texts), dev.multi_hot(len(labels))
    encoded, batches = prepare(texts)
    results = {}
    for side, session in sessions.items():
        logits = logits_of(session, encoded, batches, len(labels))
        predicted = predictor.decision.decide(predictor.probabilities_of(logits), labels.parents)
        alone = logits_of(session, predictor.encode(texts[:ALONE]), [np.array([i]) for i in range(ALONE)], len(labels))
        f1, moved = micro_macro(gold, predicted, labels.parents), float(np.abs(alone - logits[:ALONE]).max())
        results[side] = {"f1": f1, "alone": moved}
    seconds = timed(sessions, *prepare(texts[:rows]), rounds)
    for side, values in seconds.items():
        ratios = [base / value for base, value in zip(seconds["float32"], values)]
        results[side] |= {"texts_per_cpu_second": min(rows, len(texts)) / statistics.median(values), "ratios": ratios}
    return {"sides": results, "processor": processor(), "vnni": has_vnni()}


def has_vnni():
    words = Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    return "avx512_vnni" in words or "avx_vnni" in words


def show(finished):
    """Prints the table."""
    for run, result in finished:
        vnni = "with VNNI" if result["vnni"] else "without VNNI"
        print(f"\n{run.settings['set']}, {result['processor']} {vnni}, {run.settings['rounds']} rounds")
        print(f"{'side':10}{'micro / macro F1':>18}{'texts/CPU s':>13}{'/ float32':>11}{'range':>12}{'alone':>10}")
        for side, found in result["sides"].items():
            f1, ratios = "{:.2f} / {:.2f}".format(*found["f1"]), found["ratios"]
            span = f"{min(ratios):.2f}-{max(ratios):.2f}"
            speed = f"{found['texts_per_cpu_second']:13.1f}{statistics.median(ratios):11.2f}{span:>12}"
            print(f"{side:10}{f1:>18}{speed}{found['alone']:10.1e}")


def main(argv=None):
    args = parse_args(argv)
    if len(args.sets) != len(args.checkpoints):
        raise SystemExit(f"--checkpoints: one for each of {', '.join(args.sets)}, in this order")
    where = dict(zip(args.sets, args.checkpoints))

    def execute(run):
        settings = run.settings
        with tempfile.TemporaryDirectory() as folder:
            name = settings["set"]
            return measure(where[name].absolute(), name, settings["rows"], settings["rounds"], Path(folder))

    finished = kept_runs.finish(args, list(planned(args)), execute)
    if finished and not args.list:
        show(finished)
    return 0


if __name__ == "__main__":
    sys.exit(main())
