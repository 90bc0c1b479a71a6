"""Shared by rpc_client.py and http_client.py: flags, requests, and reading the answers."""

import argparse
import json

from text_cls.argument_parser import ArgumentParser
from text_cls.cli import Problems, UserError, add_blank_flag, non_negative_float, positive_int
from text_cls.language import N_, tr
from text_cls.table_flags import add_table_flags, table_options
from wire import MAX_TEXTS, WireError, texts_of, wire_of

SENTENCE, SERVICE = "sentence", "seq_cls"  # of PaddleNLP's application
FIELDS = ("label", "confidence", "label_name")
NO_ANSWER = N_("this is not an answer of service.py; check --url")
SAMPLES = [
    "“小满”牌电热毯召回六千条，原因是控温器会短路",
    "糯米鸡香，凤爪烂，一壶普洱坐到十点，谁还记得要去开会",
]


def parse_args(doc, url, argv):
    parser = ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("--url", default=url, help="address of service.py (%(default)s)")
    parser.add_argument("--texts", nargs="+", default=SAMPLES, help="texts to predict; prints JSON (two samples)")
    parser.add_argument("--input_file", help="texts, one per line, or a table, instead of --texts (none)")
    parser.add_argument("--output_file", help="file to write, text<TAB>label,label as predict.py writes it (log only)")
    parser.add_argument("--scores", action="store_true", help="also write the labels' probabilities (off)")
    add_blank_flag(parser)
    parser.add_argument("--batch_size", type=positive_int, default=32, help="texts per request (%(default)s)")
    parser.add_argument(
        "--timeout", type=non_negative_float, default=60, help="seconds to wait for an answer (%(default)s)"
    )
    add_table_flags(parser, writes=False)
    return parser.parse_args(argv)


def rows_of(url, texts, answer):
    """[(numbers, probabilities, names) of each text's labels].

    Args:
        answer: (err_no, err_msg, keys, values) of Paddle Serving.
    Raises:
        UserError: the service refused the request, or it is not service.py that answers.
    """
    number, message, keys, values = answer
    if number:
        raise UserError(tr("{url} refuses the request: {what} (err_no {number})", url=url, what=message, number=number))
    found = dict(zip(keys, values))
    try:
        columns = [[row.split(",") if row else [] for row in texts_of(found[field], len(texts))] for field in FIELDS]
        rows = [([int(i) for i in ids], [float(p) for p in scores], names) for ids, scores, names in zip(*columns)]
    except (KeyError, ValueError, WireError):
        rows = []
    if len(rows) != len(texts) or any(len({*map(len, row)}) != 1 for row in rows):
        raise UserError(f"{url}: {tr(NO_ANSWER)}")
    return rows


def label(ask, args):
    """Predicts --texts, or --input_file as a stream.

    Args:
        ask: takes the value of `sentence`, returns `answer` of `rows_of`.
    """
    from text_cls.prediction import check_files, log_flat, predict_file

    problems = Problems()
    if args.batch_size > MAX_TEXTS:
        problems.add(
            tr(
                "--batch_size {batch_size}: the service takes at most {max_texts} texts per request",
                batch_size=args.batch_size,
                max_texts=MAX_TEXTS,
            )
        )
    if args.output_file and not args.input_file:
        problems.add(tr("--output_file needs --input_file, the texts"))
    if args.input_file:
        tables = table_options(args)
        job = check_files(
            args.input_file, args.output_file, problems, None, args.scores, args.skip_blank, tables=tables
        )
    problems.stop_if_any()

    def infer(texts):
        for start in range(0, len(texts), args.batch_size):
            part = texts[start : start + args.batch_size]
            try:
                value = wire_of(part)
            except UnicodeEncodeError:
                raise UserError(tr("a text is not UTF-8; convert it first")) from None
            yield from rows_of(args.url, part, ask(value))

    if args.input_file:
        predict_file(job, lambda texts: ((names, scores) for _, scores, names in infer(texts)), log_flat)
        return
    numbers, scores, names = zip(*infer(args.texts))
    print(json.dumps({"result": {"label": numbers, "confidence": scores, "label_name": names}}, ensure_ascii=False))
