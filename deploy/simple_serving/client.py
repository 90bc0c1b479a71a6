"""Ask a running server.py for the labels of sample texts or of a file of any size.

    python client.py                                                    # sample texts; prints the answer's JSON
    python client.py --url http://127.0.0.1:8189 --input_file texts.txt --output_file labels.txt
    TEXT_CLS_API_KEY=... python client.py --url https://labels.example.com --input_file texts.txt --scores

The output is `text<TAB>label,label`, as predict.py writes it. Neither Paddle nor ONNX Runtime is needed.
"""

import argparse
import email.utils
import json
import os
import random
import sys
import threading
import time
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from socket import SHUT_RDWR
from urllib.parse import quote, urlsplit

sys.path.insert(0, str(next(p for p in Path(__file__).resolve().parents if Path(p, "text_cls").is_dir())))

from settings import API_KEY, seconds
from text_cls.argument_parser import ArgumentParser
from text_cls.cli import Problems, UserError, add_blank_flag, command, logger, non_negative_float, positive_int
from text_cls.label_tree import SEPARATOR
from text_cls.language import N_, tr
from text_cls.long_texts import LongTexts, evidence_problem, unread_text
from text_cls.prediction import check_files, log_flat, log_hierarchy, predict_file
from text_cls.rows import Labels
from text_cls.table_flags import add_table_flags, table_options

LONGEST_WAIT = 30  # maximum seconds between two tries, even if the server asks for more
SAMPLES = {  # True: for hierarchical labels
    True: ["“小满”牌电热毯召回六千条，原因是控温器会短路", "安康汉江边，钓鱼老汉救起三个翻船的学生"],
    False: ["洗完澡，手纸全泡成了浆", "糯米鸡香，凤爪烂，一壶普洱坐到十点，谁还记得要去开会"],
}
REMEDIES = {  # by status; None for all others
    401: N_("Set the server's key in the environment: TEXT_CLS_API_KEY=..."),
    403: N_("Set the server's key in the environment: TEXT_CLS_API_KEY=..."),
    404: N_("Check --url: it needs the host and port of server.py; a route, if any, must be the one of its bundle"),
    413: N_("Send fewer texts per request: use a smaller --batch_size"),
    422: N_("Fix what the message names; the server's limits are at /info"),
    500: N_("The server's log says what happened"),
    503: N_("It is starting, stopping, busy or without its index: try again later, or with a smaller --concurrency"),
    504: N_("It is busy: try again later, or with a smaller --concurrency or --batch_size"),
    None: N_("Check --url: is it server.py that answers there?"),
}
TRIED_AGAIN = (408, 429, 502, 503, 504)


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


class Server:
    """One server, used by several threads; each keeps its own connection open.

    Args:
        url: http(s)://host:port, optionally with a proxy's path and the route of the labels.
        key: the API key, or None.
        timeout: seconds without a byte of an answer.
        retry_seconds: how long a request to a busy or restarting server is retried.
    """

    def __init__(self, url, key=None, timeout=60, retry_seconds=120):
        try:
            parts = urlsplit(url)
            self._host, self._port = parts.hostname, parts.port
        except ValueError:
            parts = None
        if not parts or parts.scheme not in ("http", "https") or not self._host:
            raise UserError(tr("--url {url}: expected an address such as http://127.0.0.1:8189", url=url))
        if key and not (key.isascii() and key.isprintable()):
            raise UserError(
                tr(
                    "{api_key} contains a character that is not allowed in a key; letters and digits are safe",
                    api_key=API_KEY,
                )
            )
        self.url, self._connect = url, HTTPSConnection if parts.scheme == "https" else HTTPConnection
        self._path, route, name = parts.path.rstrip("/").partition("/models/")
        self.route = route + name  # empty: the one that /info names
        self._headers = {"Content-Type": "application/json", **({"X-API-Key": key} if key else {})}
        self._timeout, self._retry_seconds = timeout, retry_seconds
        self._own, self._connections, self._closed = threading.local(), [], threading.Event()

    def info(self, bundle=None):
        """The server's route, labels and limits, how it reads long texts, and whether the labels are a hierarchy.

        bundle: name of the one to describe; None: the server's first.
        """
        info = self.ask("GET", "/info" if bundle is None else f"/info?bundle={quote(bundle, safe='')}", patient=False)
        try:
            hierarchical = any(SEPARATOR in name for name in info["labels"])
            if {"max_texts", "max_characters", "max_body_bytes"} <= set(info["limits"]) and "route" in info:
                how = LongTexts(**info.get("long_texts", {}))
                return {**info, "hierarchical": hierarchical, "long_texts": how}
        except (KeyError, TypeError):
            pass
        raise UserError(
            tr("{url} does not list its labels at /info. {remedy}", url=self.url, remedy=tr(REMEDIES[None]))
        )

    def ask(self, method, path, value=None, patient=True):
        """The JSON of the answer. Retries if the server is busy or, with `patient`, if it does not answer."""
        body = None if value is None else _encode(value)
        started = time.monotonic()
        for tries in range(1, sys.maxsize):
            try:
                status, headers, data = self._send(method, path, body)
            except (OSError, HTTPException) as error:
                problem, again, wanted = self._no_answer(error), patient, 0
            else:
                if status == 200:
                    return self._parse(data)
                problem, again = self._error_answer(status, data), status in TRIED_AGAIN
                wanted = seconds_to_wait(headers.get("Retry-After"))
            if not again:
                raise UserError(problem)
            # As long as the server asks, up to LONGEST_WAIT; at random, so that clients do not return together.
            wait = min(max(wanted, 0.25 * 2 ** min(tries, 9)), LONGEST_WAIT) * random.uniform(1, 1.5)
            spent = time.monotonic() - started
            if spent + wait > self._retry_seconds:
                raise UserError(
                    tr(
                        "{problem}. Tried {tries} times in {spent:.0f} s; --retry_seconds allows more",
                        problem=problem,
                        tries=tries,
                        spent=spent,
                    )
                )
            self._closed.wait(wait)

    def _send(self, method, path, body):
        """One try: (status, headers, bytes of the body)."""
        self._stop_if_closed()
        connection = getattr(self._own, "connection", None)
        if connection is None:
            connection = self._own.connection = self._connect(self._host, self._port, timeout=self._timeout)
            self._connections.append(connection)
        reused = connection.sock is not None
        try:
            if not reused:
                connection.connect()
            self._stop_if_closed()  # again, now that `close` sees the socket: one of them ends this request
            try:
                connection.request(method, self._path + path, body, self._headers)
            except BrokenPipeError:  # it refused the body, and may have answered before it hung up
                pass
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        except ConnectionError:
            connection.close()
            if not reused:
                raise
            return self._send(method, path, body)  # the server may close an idle connection
        except BaseException:
            connection.close()  # half an answer may be left on it
            raise

    def _no_answer(self, error):
        if isinstance(error, TimeoutError):
            return tr(
                "{url}: no answer within {timeout:g} s; use a larger --timeout or a smaller --batch_size",
                url=self.url,
                timeout=self._timeout,
            )
        if isinstance(error, ConnectionRefusedError):
            start = tr("Start it (python server.py --bundle ../../export) or check --url")
            return tr("{url}: no server is running there. {start}", url=self.url, start=start)
        return tr("{url}: {error}. Check --url and the server's log", url=self.url, error=error or type(error).__name__)

    def _error_answer(self, status, data):
        try:
            detail = json.loads(data)["detail"]
        except (ValueError, KeyError, TypeError):
            detail = tr("not an answer from server.py")
        remedy = tr(REMEDIES.get(status, REMEDIES[None]))
        return f"{self.url} answers {status}: {str(detail).rstrip('.')}. {remedy}"

    def _parse(self, data):
        try:
            return json.loads(data)
        except ValueError:
            raise UserError(
                tr("the answer from {url} is not JSON. {remedy}", url=self.url, remedy=tr(REMEDIES[None]))
            ) from None

    def _stop_if_closed(self):
        if self._closed.is_set():
            raise UserError("stopped")

    def close(self):
        """Ends the requests of all threads."""
        self._closed.set()
        for connection in list(self._connections):
            if sock := connection.sock:  # read once: its thread may close it at any time
                try:
                    sock.shutdown(SHUT_RDWR)  # wakes a thread that waits for an answer
                except OSError:  # already closed at the other end
                    pass


def _encode(value):
    return json.dumps(value, ensure_ascii=False).encode("utf-8")


def seconds_to_wait(header):
    """Seconds of a Retry-After header, a number or a date (RFC 9110, 10.2.3); 0 if it is neither."""
    if not header:
        return 0
    try:
        if header.isdecimal():
            return int(header)
        return max(0, email.utils.parsedate_to_datetime(header).timestamp() - time.time())
    except ValueError:
        return 0


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
            more = len(_encode(text)) + 2
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
