"""Write a Triton model repository from a bundle.

    python build_repository.py --bundle ../../export --output models
    python build_repository.py --bundle ../../export --output models --device gpu --use_fp16
    python build_repository.py --bundle ../../prune/width_mult_0.75 --output models
    python build_repository.py --bundle ../../export --output models --model_version 2    # beside version 1

Names, shapes and the number of labels come from the manifest. The repository is self-contained: it has the graph, the
tokenizer, labels and decision, and the code that tokenises and decides, so a server does not need this project.
"""

import argparse
import json
import os
import shutil
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(next(p for p in Path(__file__).resolve().parents if Path(p, "text_cls").is_dir())))

from text_cls.argument_parser import ArgumentParser
from text_cls.cli import UserError, command, logger, non_negative_int, positive_int
from text_cls.language import reason_of, tr
from text_cls.locks import write_lock
from text_cls.long_texts import WINDOWS, LongTexts, description

PYTHON_MODELS = ("tokenizer", "seqcls_batcher", "seqcls_postprocess")
UNUSED_CODE = shutil.ignore_patterns("neural", "serving", "__pycache__")  # parts of text_cls not needed
MODELS = {*PYTHON_MODELS, "seqcls_model", "seqcls"}
LIMITS = ("vocab_size", "type_vocab_size", "longest_input")  # of the manifest: what the graph takes
QUEUE = 1024  # maximum requests waiting for the tokenizer, and for the graph


def parse_args(argv=None):
    parser = ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument(
        "--bundle", default=str(ROOT / "export"), help="folder that export_model.py wrote (%(default)s)"
    )
    parser.add_argument(
        "--output", default="models", help="folder of the repository; an existing one is replaced (%(default)s)"
    )
    parser.add_argument("--device", default="cpu", choices=("cpu", "gpu"), help="where the graph runs (%(default)s)")
    parser.add_argument("--use_fp16", action="store_true", help="use the bundle's fp16 model, on a GPU (off)")
    parser.add_argument("--use_quantize", action="store_true", help="use the bundle's int8 model, on a CPU (off)")
    parser.add_argument("--num_threads", type=positive_int, help="threads of the graph on a CPU (all cores)")
    parser.add_argument(
        "--max_batch_size", type=positive_int, default=64, help="maximum texts per request (%(default)s)"
    )
    parser.add_argument(
        "--max_characters", type=positive_int, default=20_000, help="maximum characters per text (%(default)s)"
    )
    parser.add_argument(
        "--metric_labels",
        type=non_negative_int,
        default=200,
        help="labels that get a metric of their own; the others are counted together (%(default)s)",
    )
    parser.add_argument(
        "--model_version",
        type=positive_int,
        help="add the bundle to the repository as this version, and keep those that it has (1, in a new repository)",
    )
    return parser.parse_args(argv)


def name_of(model, version):
    """The name of a model in a version of the bundle.

    Triton has one configuration for all versions of a name, but bundles differ in labels and limits. So the models have
    a name per version, and the ensemble's configuration, of which one is in use, names those of its version.
    """
    return model if version == 1 or model == "seqcls" else f"{model}_{version}"


# ---------------------------------------------------------------------------------------------------- config.pbtxt


def tensors(field, rows, ragged=False):
    """`input` or `output` of a configuration, from one (name, type, dims) per tensor."""
    more = " allow_ragged_batch: true" if ragged else ""
    items = [f"  {{ name: {quoted(name)} data_type: TYPE_{kind} dims: {dims}{more} }}" for name, kind, dims in rows]
    return f"{field} [\n" + ",\n".join(items) + "\n]\n"


def quoted(text):
    return json.dumps(text)  # the escapes of JSON are among those of protobuf's text format


def parameters(**values):
    return "".join(
        f"parameters {{ key: {quoted(key)} value: {{ string_value: {quoted(str(value))} }} }}\n"
        for key, value in values.items()
    )


def step(model, inputs, outputs):
    """A step of the ensemble. inputs, outputs: {tensor of the model: tensor of the ensemble}."""
    maps = [
        f"      {field} {{ key: {quoted(key)} value: {quoted(value)} }}\n"
        for field, names in (("input_map", inputs), ("output_map", outputs))
        for key, value in names.items()
    ]
    return f"    {{\n      model_name: {quoted(model)}\n      model_version: -1\n{''.join(maps)}    }}"


ANSWERS = [("label", "INT64", [-1]), ("confidence", "FP32", [-1]), ("label_name", "STRING", [-1])]
TEXT, ERROR = ("STRING", [1]), ("error", "STRING", [1])
CPU, MERGED = "instance_group [ { count: 1 kind: KIND_CPU } ]\n", "dynamic_batching { }\n"
PYTHON = 'backend: "python"'


def configurations(manifest, labels, args, digest, of_bundle, version):
    """{model: its config.pbtxt}.

    Args:
        manifest: of the bundle. labels: their names.
        digest, of_bundle: the SHA-256 of its graph and of its manifest.
        version: of the models.
    """
    from text_cls.reference import VERSION_DIGITS

    types = {"int64": "INT64", "float32": "FP32"}
    inputs = [(tensor["name"], types[tensor["dtype"]], [-1]) for tensor in manifest["inputs"]]
    ((output, *shape),) = [(t["name"], types[t["dtype"]], t["shape"][1:]) for t in manifest["outputs"]]
    # A row has the tokens of all windows of its text, end to end; this tensor has how many tokens each of them has.
    how = LongTexts(**manifest.get("long_texts", {}))
    windows = [("windows", "INT64", [-1])] if how.mode == WINDOWS else []
    tokens = [*((f"OUTPUT_{i}", kind, dims) for i, (_, kind, dims) in enumerate(inputs)), *windows]

    def model(kind, ins, outs, *more, ragged=False):
        head = f"{kind}\nmax_batch_size: {args.max_batch_size}\n"
        return "".join([head, tensors("input", ins, ragged), tensors("output", outs), *more])

    bounded = f"dynamic_batching {{ default_queue_policy {{ max_queue_size: {QUEUE} }} }}\n"
    known = {name: manifest[name] for name in LIMITS if manifest.get(name) is not None}
    checks = parameters(
        pad_token_id=manifest["pad_token_id"], max_seq_length=manifest["max_seq_length"], sha256=digest, **known
    )
    checks += parameters(graph=name_of("seqcls_model", version))
    checks += parameters(pooling=how.pooling) if windows else ""
    counted = parameters(bundle=of_bundle[:VERSION_DIGITS], metric_labels=args.metric_labels)
    threads = parameters(intra_op_thread_count=args.num_threads) if args.num_threads else ""
    limit = parameters(max_characters=args.max_characters)
    listed = parameters(labels=json.dumps(labels))
    processor = CPU.replace("CPU", args.device.upper())
    graph, logits = 'platform: "onnxruntime_onnx"', [(output, *shape)]
    results = [(f"POST_{name}", kind, dims) for name, kind, dims in ANSWERS]
    steps = ensemble([name for name, _, _ in inputs], output, [name for name, _, _ in windows], version)
    in_use = f"version_policy {{ specific {{ versions: [{version}] }} }}\n"
    post = [("POST_INPUT", *shape), ("POST_error", *TEXT)]
    models = {
        "tokenizer": model(PYTHON, [("INPUT_0", *TEXT)], [*tokens, ERROR], CPU, bounded, limit),
        "seqcls_batcher": model(PYTHON, [*inputs, *windows], logits, CPU, bounded, checks, ragged=True),
        "seqcls_model": model(graph, inputs, logits, processor, threads),  # not merged: one fault would fail all
        "seqcls_postprocess": model(PYTHON, post, results, CPU, MERGED, counted),
        "seqcls": model('platform: "ensemble"', [("INPUT", *TEXT)], [*ANSWERS, ERROR], steps, in_use, limit, listed),
    }
    return {name: f"name: {quoted(name_of(name, version))}\n{content}" for name, content in models.items()}


def ensemble(names, output, windows, version):
    """The steps from texts to labels. names, output: tensors of the graph. windows: further ones of the tokenizer."""
    tokens = {f"OUTPUT_{i}": f"tokenizer_{name}" for i, name in enumerate(names)}
    tokens |= {name: f"tokenizer_{name}" for name in windows}
    rows = {name: f"tokenizer_{name}" for name in [*names, *windows]}
    answers = {f"POST_{name}": name for name, _, _ in ANSWERS}
    steps = [
        step(name_of("tokenizer", version), {"INPUT_0": "INPUT"}, {**tokens, "error": "error"}),
        step(name_of("seqcls_batcher", version), rows, {output: "OUTPUT_2"}),
        step(name_of("seqcls_postprocess", version), {"POST_INPUT": "OUTPUT_2", "POST_error": "error"}, answers),
    ]
    return "ensemble_scheduling {\n  step [\n" + ",\n".join(steps) + "\n  ]\n}\n"


# ---------------------------------------------------------------------------------------------------------- the folder


def vocabulary_size(bundle):
    """The number of ids that a bundle's tokenizer makes: lines of vocab.txt, and the ids that a prompt adds to them."""
    with open(os.path.join(bundle.folder, "vocab.txt"), encoding="utf-8") as file:
        size = sum(1 for _ in file)
    from text_cls.schema import read_json
    from text_cls.tokenization import TEMPLATE

    template = os.path.join(bundle.folder, "template.json")
    if os.path.exists(template):
        prompt = read_json(template, TEMPLATE, tr("export the bundle again"))
        size = max(size, *(number + 1 for number in prompt["before"] + prompt["after"]))
    return size


def index_problem(bundle):
    """Why Triton cannot serve a bundle for its index, or None: it has to be in the bundle, if it is of that kind."""
    from text_cls.bundle import RETRIEVAL

    index = bundle.manifest.get("index")
    if bundle.kind != RETRIEVAL or index == {"kind": "embedded"}:
        return None
    where = tr("its index is in Milvus, which Triton does not ask") if index else tr("it has no index yet")
    return tr(
        "{folder}: {where}; python retrieval_based/index.py build --bundle {folder} --corpus labels",
        folder=bundle.folder,
        where=where,
    )


def fill(folder, args):
    """Writes the repository of --bundle, with this one version, into a folder. Returns the bundle's manifest."""
    from text_cls.bundle import copy_without_graphs, open_bundle
    from text_cls.files import atomic_write

    for name in os.listdir(folder):  # of an attempt during which the bundle changed
        shutil.rmtree(os.path.join(folder, name))
    bundle, number = open_bundle(args.bundle), args.model_version or 1
    if problem := index_problem(bundle):
        raise UserError(problem)
    graph = bundle.onnx_file("fp16" if args.use_fp16 else "int8" if args.use_quantize else "float32")
    digest = bundle.manifest["files"][os.path.basename(graph)]
    manifest = dict(bundle.manifest)
    if "vocab_size" not in manifest:  # the bundle was exported by 0.1.0
        manifest["vocab_size"] = vocabulary_size(bundle)
    versions = {model: os.path.join(folder, name_of(model, number), str(number)) for model in MODELS}
    made = configurations(manifest, bundle.labels.names, args, digest, bundle.digest, number)
    for model, content in made.items():
        os.makedirs(versions[model])
        # The ensemble's is kept with each version: a copy one folder up is the one in use.
        places = [os.path.dirname(versions[model]), *([versions[model]] if model == "seqcls" else [])]
        for place in places:
            with atomic_write(os.path.join(place, "config.pbtxt")) as file:
                file.write(content)
    for model in PYTHON_MODELS:
        shutil.copyfile(HERE / "python_models" / f"{model}.py", os.path.join(versions[model], "model.py"))
        shutil.copytree(ROOT / "text_cls", os.path.join(versions[model], "text_cls"), ignore=UNUSED_CODE)
    for model in ("tokenizer", "seqcls_postprocess"):
        copy_without_graphs(bundle, os.path.join(versions[model], "bundle"))
    shutil.copyfile(graph, os.path.join(versions["seqcls_model"], "model.onnx"))
    return bundle.manifest


def write_whole(args):
    """Writes a repository that has one version. Returns the bundle's manifest."""
    from text_cls.files import atomic_folder, overwrite_problem, read_unchanged

    if problem := overwrite_problem(args.output, MODELS, "--output"):
        raise UserError(problem)
    with atomic_folder(args.output) as folder:
        return read_unchanged(args.bundle, lambda: fill(folder, args))


def add_version(args):
    """Adds a version to a repository, which a server may be using. Returns the bundle's manifest.

    The other versions stay as they are. The ensemble's configuration, which names the new models, comes last: whatever
    ends this early, the models that it names are complete.
    """
    from text_cls.files import atomic_folder, atomic_write, read_unchanged

    output, number = os.path.realpath(args.output), args.model_version
    if not next(Path(output, "seqcls").glob("*/config.pbtxt"), None):
        raise UserError(
            tr(
                "--output {path}: not a repository of this release of build_repository.py, so no version can be added; "
                "name a new folder",
                path=args.output,
            )
        )
    if os.path.exists(os.path.join(output, "seqcls", str(number))):
        raise UserError(
            tr(
                "--model_version {version}: {path} has this version, which a server may be using; name another number",
                version=number,
                path=args.output,
            )
        )
    staged = f"{output}.version_{number}"  # beside the repository, where a server does not see it
    try:
        with atomic_folder(staged) as folder:
            manifest = read_unchanged(args.bundle, lambda: fill(folder, args))
        for model in sorted(MODELS - {"seqcls"}):
            target = os.path.join(output, name_of(model, number))
            shutil.rmtree(target, ignore_errors=True)  # of a run that was killed
            os.rename(os.path.join(staged, name_of(model, number)), target)
        version = os.path.join(output, "seqcls", str(number))
        os.rename(os.path.join(staged, "seqcls", str(number)), version)
        content = Path(version, "config.pbtxt").read_text(encoding="utf-8")
        with atomic_write(os.path.join(output, "seqcls", "config.pbtxt")) as file:
            file.write(content)
    except OSError as error:
        raise UserError(tr("cannot write {path}: {error}", path=output, error=reason_of(error))) from error
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    return manifest


def build(args):
    """Writes the repository."""
    if args.use_fp16 and args.device == "cpu":
        raise UserError(tr("--use_fp16 is for --device gpu; on a CPU it is slower than float32: use --use_quantize"))
    if args.use_quantize and args.device == "gpu":
        raise UserError(tr("--use_quantize is for --device cpu; on a GPU use --use_fp16"))
    adds = args.model_version and os.path.isdir(args.output) and os.listdir(args.output)
    manifest = (add_version if adds else write_whole)(args)
    logger.info(
        "%s: %d labels, at most %d tokens and %d characters per text, %d texts per request, on %s",
        args.output,
        manifest["num_labels"],
        manifest["max_seq_length"],
        args.max_characters,
        args.max_batch_size,
        args.device,
    )
    if line := description(LongTexts(**manifest.get("long_texts", {}))):
        logger.info(line)
    if adds:
        logger.info(
            "Version %d answers when the server has loaded first %s, then seqcls",
            args.model_version,
            name_of("seqcls_model", args.model_version),
        )


@command
def main(argv=None):
    args = parse_args(argv)
    with write_lock(args.output):
        build(args)


if __name__ == "__main__":
    sys.exit(main())
