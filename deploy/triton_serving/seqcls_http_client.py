"""Ask tritonserver for labels by HTTP: a few texts, or a file of any size as a stream.

    python seqcls_http_client.py                                             # sample texts; prints the labels' JSON
    python seqcls_http_client.py --url 10.0.0.7:8000 --texts 台风登陆，学校停课一天
    python seqcls_http_client.py --input_file texts.txt --output_file labels.txt --scores

The output is `text<TAB>label,label`, as predict.py writes it. Needs requirements-client.txt alone.
"""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent.parent), str(HERE)]

import seqcls_client  # noqa: E402
from cli import command  # noqa: E402


def parse_args(argv=None):
    return seqcls_client.parse_args(__doc__, "127.0.0.1:8000", argv)


@command
def main(argv=None):
    args = parse_args(argv)
    options = {"connection_timeout": args.timeout, "network_timeout": args.timeout}
    seqcls_client.label(seqcls_client.Server("http", args.url, options, {}), args)
    return 0


if __name__ == "__main__":
    sys.exit(main())
