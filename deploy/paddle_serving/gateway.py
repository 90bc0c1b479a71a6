"""HTTP for Paddle Serving, at the path and with the JSON of its own gateway.

That one listens on all addresses and cannot be told otherwise. This one listens where the service does, and limits the
size of a request.
"""

import json

from text_cls.language import tr

BAD_REQUEST, NO_SERVICE = 51, 3002  # err_no: a product error, as 0.9.0 calls it, and its own number for a wrong path
MAX_BYTES = 17 * 1024 * 1024  # of a request: 4 Mi characters of up to four bytes, and its frame


def http_application(answer, name):
    """A WSGI application.

    Args:
        answer: takes a Request of Paddle Serving and returns its Response.
        name: of the service; requests are `POST /NAME/prediction`.
    """
    from google.protobuf.json_format import ParseDict, ParseError
    from paddle_serving_server.pipeline.proto.pipeline_service_pb2 import Request, Response

    def refusal(status, number, message):
        return status, Response(err_no=number, err_msg=message)

    def answered(environ):
        if environ["PATH_INFO"] != f"/{name}/prediction":
            return refusal("404 Not Found", NO_SERVICE, tr("there is only POST /{name}/prediction", name=name))
        if environ["REQUEST_METHOD"] != "POST":
            return refusal(
                "405 Method Not Allowed", BAD_REQUEST, tr("there is only POST /{name}/prediction", name=name)
            )
        try:
            body = json.loads(environ["wsgi.input"].read())
            request = ParseDict(body, Request()) if isinstance(body, dict) else None
        except (ValueError, RecursionError, ParseError, TypeError):
            request = None
        if request is None:
            form = '{"key": ["sentence"], "value": ["array([...], dtype=object)"]}'
            return refusal("400 Bad Request", BAD_REQUEST, tr("the body is not JSON of the form {form}", form=form))
        request.name, request.method = name, "prediction"
        return "200 OK", answer(request)

    def application(environ, start_response):
        status, response = answered(environ)
        fields = {"err_no": response.err_no, "err_msg": response.err_msg, "tensors": []}
        fields |= {field: list(getattr(response, field)) for field in ("key", "value")}
        body = json.dumps(fields, ensure_ascii=False).encode("utf-8")
        headers = [("Content-Type", "application/json; charset=utf-8"), ("Content-Length", str(len(body)))]
        start_response(status, headers)
        return [body]

    return application
