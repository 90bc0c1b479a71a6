"""Serve a bundle with the pipeline of Paddle Serving 0.9.0, by RPC and HTTP. build_service.py makes its folder.

    python service.py --config serving/config.yml
    python service.py --config serving/config.yml --host 0.0.0.0      # all addresses; put a firewall before it

It runs in the environment of `make serving-setup`. Ports and threads are in config.yml.
"""

import argparse
import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(next(p for p in Path(__file__).resolve().parents if Path(p, "text_cls").is_dir())))

from text_cls.argument_parser import ArgumentParser
from text_cls.cli import Problems, UserError, command, logger, positive_int, stop_signals
from text_cls.language import N_, reason_of, tr

FILES, BUNDLE = "files.json", "bundle"  # of build_service.py: SHA-256 of the graph, and the bundle without it
EVERYWHERE = ("0.0.0.0", "::")
REMEDY = N_("run build_service.py again")


def parse_args(argv=None):
    parser = ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument(
        "--config", default="serving/config.yml", help="configuration that build_service.py wrote (%(default)s)"
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on, RPC and HTTP (%(default)s)")
    parser.add_argument("--max_seq_length", type=positive_int, help="maximum tokens per text (as in training)")
    return parser.parse_args(argv)


def read_configuration(path, host):
    """The content of config.yml. Raises UserError if it cannot be read, or this service cannot do what it says."""
    import yaml

    try:
        with open(path, encoding="utf-8") as file:
            found = yaml.safe_load(file)
    except OSError as error:
        raise UserError(
            tr("{path}: {error}; python build_service.py writes one", path=path, error=reason_of(error))
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(
            tr("{path} is not YAML: {splitlines}", path=path, splitlines=str(error).splitlines()[0])
        ) from error
    problems = Problems()
    for problem in configuration_problems(found, host):
        problems.add(f"{path}: {problem}")
    problems.stop_if_any()
    return found


def section(found, *names):
    """The dict at these names in a dict of dicts; empty if there is none."""
    for name in names:
        found = found.get(name) if isinstance(found, dict) else None
    return found if isinstance(found, dict) else {}


def configuration_problems(found, host):
    """Yields what this service cannot do of a configuration, a value that YAML gave."""
    from pipeline import SERVICE

    operator, dag = section(found, "op", SERVICE), section(found, "dag")
    local = section(operator, "local_service_conf")
    if not isinstance(local.get("model_config"), str):
        yield tr(
            "op, {service}, local_service_conf, model_config names no folder; {remedy}",
            service=SERVICE,
            remedy=tr(REMEDY),
        )
        return
    if set(found["op"]) != {SERVICE}:
        yield tr("this service has one op, {service}", service=SERVICE)
    if local.get("client_type") != "local_predictor" or operator.get("server_endpoints"):
        yield tr("client_type must be local_predictor: 0.9.0 downloads the program for the others, which is gone")
    if dag.get("is_thread_op") is not True:
        yield tr("dag, is_thread_op must be true: processes were slower, and none of them would end with the service")
    if found.get("build_dag_each_worker"):
        yield tr("build_dag_each_worker must be false; raise worker_num instead")
    if dag.get("enable_prometheus") and host not in EVERYWHERE:
        yield tr("dag, enable_prometheus listens on all addresses, which needs --host 0.0.0.0; or leave it out")
    if not isinstance(found.get("worker_num"), int) or found["worker_num"] < 1:
        yield tr("worker_num must be a whole number of 1 or more: how many requests are answered at a time")
    if not found.get("rpc_port") and not found.get("http_port"):
        yield tr("there is neither rpc_port nor http_port")


def open_predictor(folder, model_folder, max_seq_length):
    """The `PaddlePredictor` of a folder that build_service.py wrote, after a check that nothing in it has changed."""
    from paddle_predictor import PaddlePredictor
    from static_graph import feeds_and_fetches
    from text_cls.bundle import file_problems
    from text_cls.schema import FILE_NAME, SHA256, map_of, read_json

    graphs = sorted(Path(model_folder).glob("*.pdmodel"))
    if len(graphs) != 1:
        raise UserError(
            tr(
                "{model_folder} has {count} .pdmodel files, not one; {remedy}",
                model_folder=model_folder,
                count=len(graphs) or "no",
                remedy=tr(REMEDY),
            )
        )
    files = read_json(os.path.join(model_folder, FILES), map_of(SHA256, key=FILE_NAME), tr(REMEDY))
    problems = Problems()
    for problem in file_problems(model_folder, files, tr(REMEDY)):
        problems.add(problem)
    problems.stop_if_any()
    feeds, ((fetch, _, shape),) = feeds_and_fetches(graphs[0])
    names = [name for name, _, _ in feeds]
    return PaddlePredictor(
        os.path.join(folder, BUNDLE), names, fetch, shape[-1] if shape else None, max_seq_length=max_seq_length
    )


def stop(number, frame):
    sys.exit(0)


@command
def main(argv=None):
    args = parse_args(argv)
    configuration = read_configuration(args.config, args.host)
    from pipeline import SERVICE, make_server

    folder = os.path.dirname(os.path.abspath(args.config))
    local = configuration["op"][SERVICE]["local_service_conf"]
    local["model_config"] = os.path.join(folder, local["model_config"])
    predictor = open_predictor(folder, local["model_config"], args.max_seq_length)
    if args.host in EVERYWHERE:
        logger.warning("It listens on all addresses and asks for no password: put a firewall before it")
    server = make_server(predictor, configuration, args.host)
    for number in stop_signals():  # only now: Paddle sets its own handlers when it is imported
        signal.signal(number, stop)
    server.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
