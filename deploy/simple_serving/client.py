"""Ask a running server.py for the labels of sample texts or of a file of any size.

    python client.py                                                    # sample texts; prints the answer's JSON
    python client.py --url http://127.0.0.1:8189 --input_file texts.txt --output_file labels.txt
    TEXT_CLS_API_KEY=... python client.py --url https://labels.example.com --input_file texts.txt --scores

The output is `text<TAB>label,label`, as predict.py writes it. Neither Paddle nor ONNX Runtime is needed.
"""

import argparse
import json
import os
import sys
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from pathlib import Path

sys.path.insert(0, str(next(p for p in Path(__file__).resolve().parents if Path(p, "text_cls").is_dir())))

from one_server import REMEDIES, Server, encoded
from settings import API_KEY, seconds
from text_cls.argument_parser import ArgumentParser
from text_cls.cli import Problems, UserError, add_blank_flag, command, logger, non_negative_float, positive_int
from text_cls.language import tr
from text_cls.long_texts import evidence_problem, unread_text
from text_cls.prediction import check_files, log_flat, log_hierarchy, predict_file
from text_cls.rows import Labels
from text_cls.table_flags import add_table_flags, table_options

SAMPLES = {  # True: for hierarchical labels
    True: ["“小满”牌电热毯召回六千条，原因是控温器会短路", "安康汉江边，钓鱼老汉救起三个翻船的学生"],
    False: ["洗完澡，手纸全泡成了浆", "糯米鸡香，凤爪烂，一壶普洱坐到十点，谁还记得要去开会"],
}


def parse_args(argv=None):
    parser = ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    request = parser.add_argument_group("request")
    request.add_argument("--max_seq_len", type=positive_int, help="maximum tokens per text (the server's)")
    request.add_argument(
        "--batch_size", type=positive_int, help="texts per request and, if set, per run of the model (32)"
    )
    request.add_argument("--prob_limit", type=non_negative_float, help="probability a label must exceed (the server's)")
    request.add_argument(
        "--evidence", action="store_true", help="ask for the passage that decided each label, and show it (off)"
    )
    request.add_argument("--bundle", help="bundle to ask, of a server with several (its choice)")
    request.add_argument("--top_k", type=positive_int, help="also ask for this many of the most probable labels (none)")
    request.add_argument("--all_scores", action="store_true", help="also ask for the scores of all labels (off)")

    files = parser.add_argument_group("files")
    files.add_argument("--input_file", help="texts, one per line, or a table (sample texts)")
    files.add_argument("--output_file", help="file to write, text<TAB>label,label as predict.py writes it (log only)")
    files.add_argument("--scores", action="store_true", help="also write the labels' probabilities (off)")
    add_blank_flag(files)
    add_table_flags(parser)

    server = parser.add_argument_group("server")
    server.add_argument("--url", default="http://127.0.0.1:8189", help="address of the server (%(default)s)")
    server.add_argument("--concurrency", type=positive_int, default=4, help="requests at a time (%(default)s)")
    server.add_argument("--timeout", type=seconds, default=60, help="seconds to wait for an answer (%(default)s)")
    server.add_argument(
        "--retry_seconds",
        type=non_negative_float,
        default=120,
        help="retry for this many seconds if the server is busy (%(default)s)",
    )
    return parser.parse_args(argv)


class Labeller:
    """Labels texts by requests to a server."""

    def __init__(self, server, args, info):
        self.server, self.route = server, server.route or info["route"]
        names = ("max_seq_len", "batch_size", "prob_limit", "bundle", "top_k")
        self.long_texts, self.unread = info["long_texts"], 0  # texts not read to their end
        if args.evidence and (problem := evidence_problem(self.long_texts)):
            raise UserError(f"--evidence: {server.url}: {problem}")
        self.most_bytes = info["limits"]["max_body_bytes"] - 200  # the rest of a request
        self.parameters = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
        self.parameters |= {name: True for name in ("evidence", "all_scores") if getattr(args, name)}
        self.fields = ("label_name", "confidence", *(["evidence"] if args.evidence else []))

    def result(self, texts):
        """`result` of the answer to one request."""
        request = {"data": {"text": texts}, "parameters": self.parameters}
        answer = self.server.ask("POST", self.route, request)
        try:
            result = answer["result"]
            if all(len(result[name]) == len(texts) for name in self.fields):
                return result
        except (KeyError, TypeError):
            pass
        raise UserError(
            tr(
                "the answer from {url} does not have labels for each text. {remedy}",
                url=self.server.url,
                remedy=tr(REMEDIES[None]),
            )
        )

    def _requests(self, texts, batch_size):
        """Yields lists of consecutive texts, as many as fit into one request, by number and by bytes."""
        request, size = [], 0
        for text in texts:
            more = len(encoded(text)) + 2
            if request and (len(request) == batch_size or size + more > self.most_bytes):
                yield request
                request, size = [], 0
            request.append(text)
            size += more
        yield request

    def predict(self, texts, batch_size, pool):
        """Yields what `predict_file` expects of each text, in order; the pool's threads send the requests."""
        futures = [pool.submit(self.result, request) for request in self._requests(texts, batch_size)]
        pending = set(futures)
        for future in futures:
            while future in pending:
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                for one in done:
                    one.result()  # raises its error, even if an earlier request is still running
            result = future.result()
            self.unread += sum(result.get("truncated", ()))
            yield from zip(*(result[name] for name in self.fields))


def label_file(args, labeller, info):
    problems, limits = Problems(), info["limits"]
    batch_size = args.batch_size or min(32, limits["max_texts"])
    if batch_size > limits["max_texts"]:
        problems.add(
            tr(
                "--batch_size {batch_size}: the server takes at most {max_texts} texts per request",
                batch_size=batch_size,
                max_texts=limits["max_texts"],
            )
        )
    job = check_files(
        args.input_file,
        args.output_file,
        problems,
        Labels(info["labels"]),
        args.scores,
        args.skip_blank,
        limits["max_characters"],
        table_options(args),
        args.evidence,
    )
    problems.stop_if_any()
    log_row = log_hierarchy if info["hierarchical"] else log_flat
    pool = ThreadPoolExecutor(args.concurrency)
    try:
        predict_file(job, lambda texts: labeller.predict(texts, batch_size, pool), log_row)
    finally:
        labeller.server.close()
        pool.shutdown(cancel_futures=True)
    if labeller.unread:
        logger.warning(unread_text(labeller.unread, labeller.long_texts))


@command
def main(argv=None):
    args = parse_args(argv)
    if args.output_file and not args.input_file:
        raise UserError(tr("--output_file needs --input_file, the texts"))
    if args.input_file and (args.top_k or args.all_scores):
        raise UserError(tr("--top_k and --all_scores are for the sample texts; a file gets only predicted labels"))
    server = Server(args.url, os.environ.get(API_KEY), args.timeout, args.retry_seconds)
    info = server.info()
    if args.bundle:
        names = [one["name"] for one in info.get("bundles", ())]
        if args.bundle not in names:
            known = ", ".join(names)
            raise UserError(tr("--bundle {name}: the server has only {known}", name=args.bundle, known=known))
        info = server.info(args.bundle)
    labeller = Labeller(server, args, info)
    if args.input_file:
        label_file(args, labeller, info)
    else:
        result = labeller.result(SAMPLES[info["hierarchical"]])
        print(json.dumps({"result": result}, ensure_ascii=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
