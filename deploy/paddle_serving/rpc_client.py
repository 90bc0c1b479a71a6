"""Ask service.py by RPC for the labels of a few texts or of a file of any size.

    python rpc_client.py                                         # sample texts; prints the labels' JSON
    python rpc_client.py --url 127.0.0.1:18090 --texts 台风登陆，学校停课一天
    python rpc_client.py --input_file texts.txt --output_file labels.txt --scores

The output is `text<TAB>label,label`, as predict.py writes it. Of packages it needs grpcio and protobuf only.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(next(p for p in Path(__file__).resolve().parents if Path(p, "text_cls").is_dir())))

import serving_client
from protobuf_messages import message_class
from text_cls.cli import UserError, command
from text_cls.language import tr

PACKAGE = "baidu.paddle_serving.pipeline_serving"
MESSAGES = {  # of pipeline_service.proto, without its tensors
    "Request": {
        "key": (1, "string", True),
        "value": (2, "string", True),
        "name": (4, "string", False),
        "method": (5, "string", False),
    },
    "Response": {
        "err_no": (1, "int32", False),
        "err_msg": (2, "string", False),
        "key": (3, "string", True),
        "value": (4, "string", True),
    },
}
MAX_ANSWER = 64 * 1024 * 1024  # bytes


def parse_args(argv=None):
    return serving_client.parse_args(__doc__, "127.0.0.1:18090", argv)


def connect(url, timeout):
    """A function that sends the value of `sentence`, and returns the answer as `serving_client.rows_of` wants it."""
    try:
        import grpc

        request, response = (message_class(PACKAGE, MESSAGES, name) for name in ("Request", "Response"))
    except ModuleNotFoundError as error:
        raise UserError(tr("{error}. pip install grpcio protobuf", error=error)) from error
    if "://" in url or ":" not in url:
        raise UserError(tr("--url {url}: expected an address such as 127.0.0.1:18090, without http://", url=url))
    channel = grpc.insecure_channel(url, options=[("grpc.max_receive_message_length", MAX_ANSWER)])
    infer = channel.unary_unary(
        f"/{PACKAGE}.PipelineService/inference",
        request_serializer=request.SerializeToString,
        response_deserializer=response.FromString,
    )

    def ask(value):
        message = request(
            key=[serving_client.SENTENCE], value=[value], name=serving_client.SERVICE, method="prediction"
        )
        try:
            answer = infer(message, timeout=timeout or None)
        except grpc.RpcError as error:
            reason = f"{error.code().name}: {error.details()}"
            message = tr(
                "{url}: {reason}; check --url and that service.py is running, or raise --timeout",
                url=url,
                reason=reason,
            )
            raise UserError(message) from error
        return answer.err_no, answer.err_msg, answer.key, answer.value

    return ask


@command
def main(argv=None):
    args = parse_args(argv)
    serving_client.label(connect(args.url, args.timeout), args)
    return 0


if __name__ == "__main__":
    sys.exit(main())
