"""The pipeline of Paddle Serving 0.9.0 with what it lacks: requests are data, and it listens where it is told to.

Needs paddle_serving_server and paddle_serving_app; service.py is its only user.
"""

import contextlib
import os
import sys
import types
import warnings
from concurrent import futures

from gateway import BAD_REQUEST, MAX_BYTES, http_application
from text_cls.cli import UserError, logger
from text_cls.language import reason_of, tr
from text_cls.prediction import named_labels
from wire import WireError, texts_of

SERVICE, SENTENCE = "seq_cls", "sentence"  # of PaddleNLP's application
PROFILE = "pipeline.profile"  # a key that upstream's client adds if it is asked to
STOP_SECONDS, IDLE_SECONDS = 10, 30


def import_upstream():
    """Imports Paddle Serving without paddle_serving_client, whose compiled part is for Python 3.9 at most.

    Only one name of that package is used, for connections to a C++ server, which there are none of here.
    """
    sys.modules.setdefault("paddle_serving_client", types.ModuleType("paddle_serving_client"))
    sys.modules["paddle_serving_client"].Client = type("Client", (), {})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Paddle's, about a compiler cache
        import paddle_serving_app.local_predict as local_predict
        import paddle_serving_server.pipeline as pipeline
        from paddle_serving_server.pipeline import error_catch

    def stop_server(*_):
        """Ends this process. 0.9.0 kills its process group instead, and with it the shell script that started it."""
        sys.stderr.write(tr("error: Paddle Serving cannot start; PipelineServingLogs/pipeline.log.wf says why\n"))
        sys.stderr.flush()
        os._exit(1)

    local_predict.kill_stop_process_by_pid = error_catch.kill_stop_process_by_pid = stop_server
    local_predict.paddle_infer = quiet(local_predict.paddle_infer)
    logger.disabled = False  # the logging configuration of 0.9.0 switches all others off
    return pipeline


def quiet(inference):
    """The names of paddle.inference that 0.9.0 uses, without the hundred lines that Paddle writes for each graph."""

    def configuration(*paths):
        made = inference.Config(*paths)
        made.disable_glog_info()
        return made

    used = {"create_predictor": inference.create_predictor, "PrecisionType": inference.PrecisionType}
    return types.SimpleNamespace(Config=configuration, **used)


def make_server(predictor, configuration, host):
    """A server that is ready to run.

    Args:
        predictor: `PaddlePredictor`.
        configuration: content of config.yml as a dict, checked.
        host: address to listen on.
    Raises:
        UserError: Paddle Serving refuses the configuration, or a port is taken.
    """
    pipeline = import_upstream()

    class Request(pipeline.RequestOp):
        """Reads keys and values. The one of 0.9.0 also reads tensors, with NumPy's pickles among them, which can run
        any code before the service sees the request (its operator.py, line 1753)."""

        def unpack_request_package(self, request):
            problem = request_problem(request)
            if problem:
                return {}, request.logid, BAD_REQUEST, problem
            return dict(zip(request.key, request.value)), request.logid, None, ""

    class Label(pipeline.Op):
        """Texts to labels. Steps as 0.9.0 calls them: preprocess, process, postprocess."""

        def init_op(self):
            predictor.session.client = self.client

        def preprocess(self, input_dicts, data_id, log_id):
            import numpy as np

            ((_, values),) = input_dicts.items()
            try:
                texts = texts_of(values[SENTENCE])
            except WireError as error:
                return {}, True, BAD_REQUEST, f"{SENTENCE}: {error}"
            return {SENTENCE: np.array(texts, dtype=object)}, False, None, ""  # an array, so that it can be merged

        def process(self, feed_batch, typical_logid=0):
            (feed,) = feed_batch
            return {"probabilities": predictor.probabilities(feed[SENTENCE].tolist())}, 0, ""

        def postprocess(self, input_dicts, fetch_dict, data_id, log_id):
            return answer_of(fetch_dict["probabilities"], predictor), None, ""

    label = Label(name=SERVICE, input_ops=[Request()])
    server = pipeline.PipelineServer(SERVICE)
    server.set_response_op(pipeline.ResponseOp(input_ops=[label]))
    try:
        server.prepare_server(yml_dict=configuration)
    except SystemExit as error:  # its way to say what is wrong with the configuration, or that a port is taken
        raise UserError(tr("Paddle Serving: {error}", error=error)) from error
    return Listening(server, configuration, host)


def request_problem(request):
    """Why a request is refused, or None."""
    if request.tensors:
        return tr("tensors are not accepted; send the texts as a string, key {sentence}", sentence=SENTENCE)
    if len(request.key) != len(request.value):
        return tr(
            "{keys} keys and {values} values; send one value for each key",
            keys=len(request.key),
            values=len(request.value),
        )
    if sorted(key for key in request.key if key != PROFILE) != [SENTENCE]:
        return tr("expected the key {sentence}, once, and no other", sentence=SENTENCE)
    return None


def answer_of(probabilities, predictor):
    """The answer for probabilities, float array [texts, labels]: lists of strings as repr() writes them.

    `label` is what PaddleNLP's service answers: the numbers of each text's labels, with commas between them. The other
    two are their names, and their probabilities.
    """
    numbers, names, scores = [], [], []
    for found, confidences in named_labels(probabilities, predictor.labels, predictor.decision):
        names.append(",".join(found))
        numbers.append(",".join(str(predictor.labels.index[name]) for name in found))
        scores.append(",".join(f"{score:.6f}" for score in confidences))
    return {"label": repr(numbers), "label_name": repr(names), "confidence": repr(scores)}


class Listening:
    """A prepared pipeline of Paddle Serving on the addresses of one host.

    0.9.0 itself binds all addresses, by gRPC and by HTTP.
    """

    def __init__(self, server, configuration, host):
        from paddle_serving_server.pipeline.pipeline_server import PipelineServicer

        self.host, self.workers = host, configuration["worker_num"]
        self.rpc_port, self.http_port = configuration.get("rpc_port"), configuration.get("http_port")
        self.servicer = PipelineServicer(SERVICE, server._response_op, configuration)

    def run(self):
        """Answers requests until a SystemExit or KeyboardInterrupt. Raises UserError if a port is taken."""
        with contextlib.ExitStack() as stack:
            rpc = self._open_rpc(stack) if self.rpc_port else None
            http = self._open_http(stack) if self.http_port else None
            with contextlib.suppress(SystemExit, KeyboardInterrupt):
                http.run() if http else rpc.wait_for_termination()

    def _open_rpc(self, stack):
        import grpc
        from paddle_serving_server.pipeline.proto import pipeline_service_pb2_grpc

        address = f"[{self.host}]:{self.rpc_port}" if ":" in self.host else f"{self.host}:{self.rpc_port}"
        options = [("grpc.max_receive_message_length", MAX_BYTES), ("grpc.so_reuseport", 0)]
        rpc = grpc.server(futures.ThreadPoolExecutor(self.workers), options=options)
        pipeline_service_pb2_grpc.add_PipelineServiceServicer_to_server(self.servicer, rpc)
        try:
            rpc.add_insecure_port(address)
        except RuntimeError:
            raise UserError(
                tr("RPC cannot listen on {address}: is the port taken, or is --host another's?", address=address)
            ) from None
        rpc.start()
        stack.callback(lambda: rpc.stop(STOP_SECONDS).wait())
        logger.info("RPC on %s, service %s", address, SERVICE)
        return rpc

    def _open_http(self, stack):
        import waitress

        application = http_application(lambda request: self.servicer.inference(request, None), SERVICE)
        limits = {"max_request_body_size": MAX_BYTES, "channel_timeout": IDLE_SECONDS, "threads": self.workers}
        try:
            http = waitress.create_server(application, host=self.host, port=self.http_port, **limits)
        except OSError as error:
            raise UserError(
                tr(
                    "HTTP cannot listen on {host}:{http_port}: {error}",
                    host=self.host,
                    http_port=self.http_port,
                    error=reason_of(error),
                )
            ) from error
        stack.callback(http.close)
        logger.info("HTTP on http://%s:%d/%s/prediction", self.host, self.http_port, SERVICE)
        return http
