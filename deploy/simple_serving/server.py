"""Serve a bundle over HTTP. Paddle is not needed, whether on a CPU or on a GPU.

    python server.py --bundle ../../export --host 127.0.0.1 --port 8189
    TEXT_CLS_BUNDLE=../../export uvicorn server:app --port 8189
    paddlenlp server server:app --host 0.0.0.0 --port 8189

    curl http://127.0.0.1:8189/models/cls_hierarchical -H "Content-Type: application/json" \\
        -d '{"data": {"text": ["今日大盘下跌2%", "央行发布金融数据"]}}'

Every flag can also be an environment variable: --max_texts is TEXT_CLS_MAX_TEXTS. Clients must send the key in
TEXT_CLS_API_KEY, if it is set.
"""

import contextlib
import os
import signal
import socket
import sys
from pathlib import Path

sys.path.insert(0, str(next(p for p in Path(__file__).resolve().parents if Path(p, "text_cls").is_dir())))

import settings
from text_cls.cli import UserError, command
from text_cls.language import reason_of, tr


def parse_args(argv=None):
    return settings.parse_args(argv, __doc__)


def __getattr__(name):
    """`server:app`, created on first access, so that --help does not wait for FastAPI."""
    if name != "app":
        raise AttributeError(name)
    from application import create_app

    globals()["app"] = create_app()
    return globals()["app"]


def bind(host, port):
    """A socket on the address, not listening yet. Raises UserError if the address is unavailable."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, protocol)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, os.name != "nt")
        bound.bind(address)
        return bound
    except (OSError, OverflowError) as error:
        raise UserError(
            tr(
                "--host {host} --port {port}: {reason}; choose another, or stop the program that uses it",
                host=host,
                port=port,
                reason=reason_of(error),
            )
        ) from error


def allow_connections():
    """Raises the limit of open connections as far as the system allows; the default is often 1,024."""
    if os.name != "nt":
        import resource

        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        with contextlib.suppress(ValueError, OSError):  # macOS reports no limit, and then refuses that
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


@command
def main(argv=None):
    chosen = parse_args(argv)
    bound = bind(chosen.host, chosen.port)
    from application import create_app
    from connections import serve

    allow_connections()
    # uvicorn raises the signal that ended it once more; it has been handled by then.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    serve(create_app(chosen), bound, chosen)
    return 0


if __name__ == "__main__":
    sys.exit(main())
