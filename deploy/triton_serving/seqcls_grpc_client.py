"""Ask tritonserver by gRPC for the labels of a few texts or of a file of any size.

    python seqcls_grpc_client.py                                             # sample texts; prints the labels' JSON
    python seqcls_grpc_client.py --url 10.0.0.7:8001 --texts 台风登陆，学校停课一天
    python seqcls_grpc_client.py --input_file texts.txt --output_file labels.txt --scores

The output is `text<TAB>label,label`, as predict.py writes it. Only requirements-client.txt is needed.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(next(p for p in Path(__file__).resolve().parents if Path(p, "text_cls").is_dir())))

import seqcls_client
from text_cls.cli import command


def parse_args(argv=None):
    return seqcls_client.parse_args(__doc__, "127.0.0.1:8001", argv)


@command
def main(argv=None):
    args = parse_args(argv)
    seqcls_client.label(seqcls_client.Server("grpc", args.url, {}, {"client_timeout": args.timeout}), args)
    return 0


if __name__ == "__main__":
    sys.exit(main())
