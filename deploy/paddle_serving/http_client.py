"""Ask service.py by HTTP for the labels of a few texts or of a file of any size.

    python http_client.py                                        # sample texts; prints the labels' JSON
    python http_client.py --url http://127.0.0.1:9878/seq_cls/prediction --texts 台风登陆，学校停课一天
    python http_client.py --input_file texts.txt --output_file labels.txt --scores

The output is `text<TAB>label,label`, as predict.py writes it. Paddle Serving is not needed.
"""

import json
import sys
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path

sys.path.insert(0, str(next(p for p in Path(__file__).resolve().parents if Path(p, "text_cls").is_dir())))

import serving_client
from text_cls.cli import UserError, command
from text_cls.language import tr

MAX_ANSWER = 64 * 1024 * 1024  # bytes


def parse_args(argv=None):
    return serving_client.parse_args(__doc__, f"http://127.0.0.1:9999/{serving_client.SERVICE}/prediction", argv)


def ask(url, timeout, value):
    """The answer to a request, as `serving_client.rows_of` wants it."""
    if not url.startswith(("http://", "https://")):
        raise UserError(
            tr("--url {url}: expected an address such as http://127.0.0.1:9999/seq_cls/prediction", url=url)
        )
    body = json.dumps({"key": [serving_client.SENTENCE], "value": [value]}).encode("utf-8")
    try:
        request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=timeout or None) as answer:
            content = answer.read(MAX_ANSWER)
    except urllib.error.HTTPError as error:  # its body says more
        content = error.read(MAX_ANSWER)
    except HTTPException:
        raise UserError(f"{url}: {tr(serving_client.NO_ANSWER)}") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise UserError(
            tr(
                "{url}: {reason}; check --url and that service.py is running, or raise --timeout",
                url=url,
                reason=reason,
            )
        ) from error
    try:
        found = json.loads(content)
        number, message, keys, values = (found[name] for name in ("err_no", "err_msg", "key", "value"))
        if not all(isinstance(item, str) for item in [message, *keys, *values]):
            raise TypeError
    except (KeyError, TypeError, ValueError, RecursionError):
        raise UserError(f"{url}: {tr(serving_client.NO_ANSWER)}") from None
    return number, message, keys, values


@command
def main(argv=None):
    args = parse_args(argv)
    serving_client.label(lambda value: ask(args.url, args.timeout, value), args)
    return 0


if __name__ == "__main__":
    sys.exit(main())
