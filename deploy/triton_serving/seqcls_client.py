"""Shared by seqcls_grpc_client.py and seqcls_http_client.py: flags, requests, and reading the answers."""

import argparse
import importlib
import json
import time

from text_cls.argument_parser import ArgumentParser
from text_cls.cli import PACKAGES, Problems, UserError, add_blank_flag, non_negative_float, positive_int
from text_cls.language import N_, tr
from text_cls.table_flags import add_table_flags, table_options

MODEL = "seqcls"
OUTPUTS = ("label", "confidence", "label_name", "error")
SAMPLES = [
    "临潼石榴园边上的老变电站跳闸，半个镇子点起了蜡烛",
    "糯米鸡香，凤爪烂，一壶普洱坐到十点，谁还记得要去开会",
]
FULL = "Exceeds maximum queue size"
REMEDIES = (  # part of a message from Triton, and what to do about it
    (FULL, N_("it is busy; try again later, or wait longer with --timeout")),
    ("Deadline Exceeded", N_("--timeout gives it more time, a smaller --batch_size less to do")),
    ("timed out", N_("--timeout gives it more time, a smaller --batch_size less to do")),
    ("unknown model", N_("its log says why the model was not loaded; check its --model-repository")),
)


def parse_args(doc, url, argv):
    parser = ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("--url", default=url, help="host:port of tritonserver (%(default)s)")
    parser.add_argument("--texts", nargs="+", default=SAMPLES, help="texts to predict; prints JSON (two samples)")
    parser.add_argument("--input_file", help="texts, one per line, or a table, instead of --texts (none)")
    parser.add_argument("--output_file", help="file to write, text<TAB>label,label as predict.py writes it (log only)")
    parser.add_argument("--scores", action="store_true", help="also write the labels' probabilities (off)")
    add_blank_flag(parser)
    parser.add_argument("--batch_size", type=positive_int, help="texts per request (as many as the server takes)")
    parser.add_argument(
        "--timeout", type=non_negative_float, default=60, help="seconds to wait for an answer (%(default)s)"
    )
    parser.add_argument(
        "--wait", type=non_negative_float, default=0, help="seconds to wait for a server that is starting (%(default)s)"
    )
    add_table_flags(parser)
    return parser.parse_args(argv)


class QueueFull(UserError):
    """The server's queue is full; it may accept the request a little later."""


class Server:
    """A Triton server, by one of the two modules of tritonclient. Its errors become UserErrors that say what to do.

    Args:
        kind: "grpc" or "http".
        url: host:port.
        options: keyword arguments of the module's InferenceServerClient.
        call_options: keyword arguments of each call.
    """

    def __init__(self, kind, url, options, call_options):
        try:
            import numpy as np  # first: without NumPy, tritonclient prints a traceback

            module = importlib.import_module(f"tritonclient.{kind}")
        except (ImportError, RuntimeError) as error:  # RuntimeError: a package of tritonclient is missing
            raise UserError(f"{error.__cause__ or error}. {tr(PACKAGES['tritonclient'])}") from error
        self._np, self._module, self.url, self._call_options = np, module, url, call_options
        if "://" in url or ":" not in url:
            raise UserError(tr("--url {url}: expected an address such as 127.0.0.1:8001, without http://", url=url))
        self._client = module.InferenceServerClient(url, **options)

    def ask(self, method, *words, **options):
        from tritonclient.utils import InferenceServerException

        try:
            return getattr(self._client, method)(*words, **options, **self._call_options)
        except InferenceServerException as error:
            message = error.message() or str(error)
        except Exception as error:  # the HTTP client passes on those of its library: sockets, parsing
            message = f"{type(error).__name__}: {error}"
        remedy = next((tr(remedy) for part, remedy in REMEDIES if part in message), None)
        remedy = remedy or tr("check --url, and that tritonserver is running: its port 8001 is gRPC, 8000 HTTP")
        raise (QueueFull if FULL in message else UserError)(
            tr("{url}: {what}. What to do: {remedy}", url=self.url, what=message, remedy=remedy)
        )

    def ask_again(self, error, seconds, *words, **options):
        """The answer to `ask`, repeated for this many seconds while it raises this class of error."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                return self.ask(*words, **options)
            except error:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.5)

    def settings(self, wait):
        """(maximum texts per request, maximum characters per text, names of all labels)."""
        config = self.ask_again(UserError, wait, "get_model_config", MODEL)
        if not isinstance(config, dict):
            from google.protobuf.json_format import MessageToDict

            config = MessageToDict(config.config, preserving_proto_field_name=True)
        values = {name: value["string_value"] for name, value in config.get("parameters", {}).items()}
        if not {"max_characters", "labels"} <= set(values):
            raise UserError(
                tr(
                    "{url}: its model {model} does not list its labels; build a repository with build_repository.py, "
                    "and load it again",
                    url=self.url,
                    model=MODEL,
                )
            )
        return int(config["max_batch_size"]), int(values["max_characters"]), json.loads(values["labels"])

    def infer(self, texts, timeout):
        """Yields (numbers, probabilities, names) of each text's labels, in order.

        While the server's queue is full the request is repeated, for `timeout` seconds.

        Raises:
            UserError: the server refuses a text, or fails.
        """
        tensor = self._module.InferInput("INPUT", [len(texts), 1], "BYTES")
        raw = [[text.encode("utf-8", "surrogateescape")] for text in texts]  # a shell may pass any bytes
        tensor.set_data_from_numpy(self._np.array(raw, dtype=object))
        outputs = [self._module.InferRequestedOutput(name) for name in OUTPUTS]
        answer = self.ask_again(QueueFull, timeout, "infer", MODEL, [tensor], outputs=outputs)
        for text, label, confidence, name, error in zip(texts, *map(answer.as_numpy, OUTPUTS)):
            if error[0]:
                raise UserError(f"{text[:40]!r}: {error[0].decode('utf-8')}")
            is_filled = label >= 0  # rows with fewer labels than another end with -1
            yield label[is_filled], confidence[is_filled], [one.decode("utf-8") for one in name[is_filled]]


def label(server, args):
    """Predicts --texts, or --input_file as a stream."""
    from text_cls.prediction import check_files, log_flat, log_hierarchy, predict_file
    from text_cls.rows import Labels

    if args.output_file and not args.input_file:
        raise UserError(tr("--output_file needs --input_file, the texts"))
    most, longest, names = server.settings(args.wait)
    size = args.batch_size or most
    problems = Problems()
    if size > most:
        problems.add(tr("--batch_size {size}: the server takes at most {most} texts per request", size=size, most=most))
    if args.input_file:
        labels, tables = Labels(names), table_options(args)
        job = check_files(
            args.input_file, args.output_file, problems, labels, args.scores, args.skip_blank, longest, tables
        )
    problems.stop_if_any()

    def infer(texts):
        for start in range(0, len(texts), size):
            yield from server.infer(texts[start : start + size], args.timeout)

    def predict(texts):
        return ((names, scores) for _, scores, names in infer(texts))

    if args.input_file:
        predict_file(job, predict, log_hierarchy if labels.hierarchical else log_flat)
        return
    rows = list(infer(args.texts))
    result = {
        "label": [numbers.tolist() for numbers, _, _ in rows],
        "confidence": [scores.tolist() for _, scores, _ in rows],
        "label_name": [names for _, _, names in rows],
    }
    print(json.dumps({"result": result}, ensure_ascii=False))
