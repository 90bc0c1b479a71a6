"""Write what Paddle Serving needs to serve a bundle: config.yml, the graph with its prototxt files, and the bundle.

    python build_service.py --bundle ../../export --output serving
    python build_service.py --bundle ../../export --output serving --device gpu

Names, types and shapes are those of the graph, and need no typing. The folder has all that service.py needs.
"""

import argparse
import json
import os
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(next(p for p in Path(__file__).resolve().parents if Path(p, "text_cls").is_dir())))

from text_cls.argument_parser import ArgumentParser
from text_cls.cli import Problems, UserError, command, logger, positive_int
from text_cls.language import tr
from text_cls.locks import write_lock

SERVER, CLIENT = "serving_server", "serving_client"
OURS = {"config.yml", "bundle", SERVER, CLIENT}
CONFIGURATION = """\
# Made by build_service.py for service.py, on Paddle Serving 0.9.0. --host of service.py is the address it listens on.
rpc_port: {rpc_port}
http_port: {http_port}
worker_num: 8                 # requests that are answered at a time, by RPC and by HTTP
build_dag_each_worker: false
dag:
  is_thread_op: true
  retry: 1
  use_profile: false
op:
  seq_cls:
    concurrency: 1
    batch_size: 1
    local_service_conf:
      client_type: local_predictor
      model_config: {server}  # relative to this file
      fetch_list: {fetches}
      device_type: {device_type}            # 0: CPU, 1: GPU
      devices: {devices}
      thread_num: {threads}
      ir_optim: true
      mem_optim: true
      use_mkldnn: false
"""


def parse_args(argv=None):
    parser = ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument(
        "--bundle", default=str(ROOT / "export"), help="folder that export_model.py wrote (%(default)s)"
    )
    parser.add_argument("--output", default="serving", help="folder to write; replaced if it is there (%(default)s)")
    parser.add_argument("--rpc_port", type=positive_int, default=18090, help="port of RPC (%(default)s)")
    parser.add_argument("--http_port", type=positive_int, help="port of HTTP (9999; 9878 without a hierarchy)")
    parser.add_argument("--device", default="cpu", choices=("cpu", "gpu"), help="where the graph runs (%(default)s)")
    parser.add_argument("--num_threads", type=positive_int, help="threads of the graph on a CPU (all cores)")
    return parser.parse_args(argv)


def prototxt(feeds, fetches):
    """A model configuration of Paddle Serving, from (name, type, shape) of each input and output."""

    def variable(field, kind, name, number, shape):
        sizes = "".join(f"  shape: {size}\n" for size in shape)
        name = json.dumps(name)  # the escapes of JSON are among those of protobuf's text format
        return (
            f"{field} {{\n  name: {name}\n  alias_name: {name}\n  is_lod_tensor: false\n  {kind}: {number}\n{sizes}}}\n"
        )

    inputs = [variable("feed_var", "feed_type", *tensor) for tensor in feeds]
    return "".join([*inputs, *(variable("fetch_var", "fetch_type", *tensor) for tensor in fetches)])


def bundle_problem(bundle):
    """Why Paddle Serving cannot serve a bundle, or None."""
    from text_cls.bundle import CLASSIFICATION

    graph = bundle.manifest["static_graph"]
    if bundle.kind != CLASSIFICATION:
        return tr(
            "{folder} is a bundle for retrieval; serve it with deploy/simple_serving or deploy/triton_serving",
            folder=bundle.folder,
        )
    if not graph or f"{graph}.pdmodel" not in bundle.manifest["files"]:
        return tr("{folder} has no static graph of Paddle; serve it with deploy/simple_serving", folder=bundle.folder)
    return None


def configuration(bundle, fetches, args):
    """The content of config.yml."""
    hierarchical = bundle.manifest["hierarchical"]
    return CONFIGURATION.format(
        rpc_port=args.rpc_port,
        http_port=args.http_port or (9999 if hierarchical else 9878),  # those of PaddleNLP's two applications
        server=SERVER,
        fetches=json.dumps([name for name, _, _ in fetches]),
        device_type=int(args.device == "gpu"),
        devices='"0"' if args.device == "gpu" else '""',
        threads=args.num_threads or os.cpu_count() or 1,
    )


def fill(folder, args):
    """Writes the folder of the service. Returns the bundle."""
    from static_graph import feeds_and_fetches
    from text_cls.bundle import copy_without_graphs, open_bundle
    from text_cls.files import atomic_write, write_json

    for name in os.listdir(folder):  # of an attempt during which the bundle changed
        path = os.path.join(folder, name)
        shutil.rmtree(path) if os.path.isdir(path) else os.remove(path)
    bundle = open_bundle(args.bundle)
    if problem := bundle_problem(bundle):
        raise UserError(problem)
    graph = bundle.manifest["static_graph"]
    feeds, fetches = feeds_and_fetches(os.path.join(bundle.folder, f"{graph}.pdmodel"))
    copy_without_graphs(bundle, os.path.join(folder, "bundle"))
    files = {}
    for side in (SERVER, CLIENT):
        os.makedirs(os.path.join(folder, side))
        with atomic_write(os.path.join(folder, side, f"{side}_conf.prototxt")) as file:
            file.write(prototxt(feeds, fetches))
    for name in (f"{graph}.pdmodel", f"{graph}.pdiparams"):
        shutil.copyfile(os.path.join(bundle.folder, name), os.path.join(folder, SERVER, name))
        files[name] = bundle.manifest["files"][name]
    write_json(os.path.join(folder, SERVER, "files.json"), files)
    with atomic_write(os.path.join(folder, "config.yml")) as file:
        file.write(configuration(bundle, fetches, args))
    return bundle


def build(args):
    """Writes the folder, whole or not at all."""
    from text_cls.files import atomic_folder, overwrite_problem, read_unchanged

    problems = Problems()
    for name in ("rpc_port", "http_port"):
        if not 1024 <= (getattr(args, name) or 1024) <= 65535:
            problems.add(
                tr(
                    "--{name} {getattr}: Paddle Serving takes ports from 1024 to 65535",
                    name=name,
                    getattr=getattr(args, name),
                )
            )
    if problem := overwrite_problem(args.output, OURS, "--output"):
        problems.add(problem)
    problems.stop_if_any()
    with atomic_folder(args.output) as folder:
        bundle = read_unchanged(args.bundle, lambda: fill(folder, args))
    logger.info(
        "%s: %d labels, at most %d tokens per text, on %s",
        args.output,
        bundle.manifest["num_labels"],
        bundle.manifest["max_seq_length"],
        args.device,
    )
    logger.info("Next: .venv-serving/bin/python deploy/paddle_serving/service.py --config %s/config.yml", args.output)


@command
def main(argv=None):
    args = parse_args(argv)
    with write_lock(args.output):
        build(args)
    return 0


if __name__ == "__main__":
    sys.exit(main())
