"""The settings of the HTTP server, and errors before it serves."""

import subprocess

import pytest
from conftest import ROOT, command_line

import server
import settings

KEY = "s3cret"


def test_settings(caplog, monkeypatch):
    monkeypatch.setattr("text_cls.cli.logger.propagate", True)
    environ = {
        "TEXT_CLS_PORT": "1",
        "TEXT_CLS_MAX_TEXTS": "5",
        "TEXT_CLS_BATCHING": "false",
        "TEXT_CLS_API_KEY": KEY,
        "TEXT_CLS_MAX_TEXT": "3",
        "OTHER": "x",
    }
    chosen = settings.parse_args(["--port", "2"], environ=environ)
    assert (chosen.port, chosen.max_texts, chosen.batching, chosen.api_key) == (2, 5, False, KEY)
    assert "TEXT_CLS_MAX_TEXT is not a setting; did you mean 'TEXT_CLS_MAX_TEXTS'?" in caplog.text
    shown = "\n".join(settings.describe(chosen))
    assert "max_texts=5" in shown and "batching=False" in shown and KEY not in shown
    chosen = settings.parse_args(["--shutdown_seconds", "12"], environ={})
    assert (chosen.host, chosen.shutdown_seconds, chosen.deadline_seconds) == ("127.0.0.1", 12, 10)
    assert chosen.api_key is None and chosen.allowed_hosts == ()
    chosen = settings.parse_args(["--allowed_hosts", "A.org, *.b.org [0::1]"], environ={})
    assert chosen.allowed_hosts == ("a.org", "*.b.org", "::1")


@pytest.mark.parametrize(
    ("argv", "environ", "message"),
    [
        (["--max_texts", "0"], {}, "argument --max_texts: must be a whole number of at least 1, not '0'"),
        (
            [],
            {"TEXT_CLS_PORT": "tcp://10.0.0.1:80"},
            "TEXT_CLS_PORT: must be a whole number of at least 0, not 'tcp://",
        ),
        (["--port", "1"], {"TEXT_CLS_PORT": ""}, "TEXT_CLS_PORT: must be a whole number of at least 0, not ''"),
        ([], {"TEXT_CLS_PORT": "9" * 5000}, "TEXT_CLS_PORT: '9999"),
        ([], {"TEXT_CLS_DEVICE": "tpu"}, "TEXT_CLS_DEVICE: must be one of cpu, gpu, not 'tpu'"),
        ([], {"TEXT_CLS_DEADLINE_SECONDS": "0"}, "TEXT_CLS_DEADLINE_SECONDS: must be more than 0"),
        ([], {"TEXT_CLS_PORT": "a", "TEXT_CLS_MAX_TEXTS": "b"}, "TEXT_CLS_MAX_TEXTS: must be a whole"),
        ([], {"TEXT_CLS_PORT": "a", "TEXT_CLS_MAX_TEXTS": "b"}, "2 problems"),
        ([], {"TEXT_CLS_BATCHING": "nein"}, "TEXT_CLS_BATCHING must be true or false, not 'nein'"),
        (["--shutdown_seconds", "11.5"], {}, "11.5 must be at least 2 more than --deadline_seconds 10"),
        (["--deadline_seconds", "0"], {}, "argument --deadline_seconds: must be more than 0"),
        (["--allowed_hosts", "a.org:80"], {}, "must be names without ports, such as example.org,*.example.org"),
        ([], {"TEXT_CLS_ALLOWED_HOSTS": "http://a.org"}, "TEXT_CLS_ALLOWED_HOSTS: must be names without ports"),
        ([], {"TEXT_CLS_ALLOWED_HOSTS": "a.*.org"}, "TEXT_CLS_ALLOWED_HOSTS: must be names without ports"),
        ([], {"TEXT_CLS_API_KEY": "密钥"}, "TEXT_CLS_API_KEY contains characters that a header cannot carry"),
        ([], {"TEXT_CLS_API_KEY": "s3cret\n"}, "use ASCII without line breaks, and without spaces at either end"),
        ([], {"TEXT_CLS_API_KEY": " s3cret"}, "use ASCII without line breaks, and without spaces at either end"),
        ([], {"TEXT_CLS_API_KEY": "s3\0cret"}, "TEXT_CLS_API_KEY contains characters that a header cannot carry"),
        ([], {"TEXT_CLS_API_KEY": ""}, "TEXT_CLS_API_KEY is empty: set a key, or unset it"),
        ([], {"TEXT_CLS_API_KEY": " \n"}, "TEXT_CLS_API_KEY is empty: set a key, or unset it"),
        (["--bundel", "x"], {}, "--bundel"),
        (["--bundle", "a=x", "--bundle", "a=y"], {}, "--bundle: 2 bundles are named a; give each a name of its own"),
        (["--bundle", "x/a", "--bundle", "y/a"], {}, "--bundle: 2 bundles are named a; give each a name of its own"),
        (["--bundle", "a="], {}, "argument --bundle: must be a folder, or name=folder, not 'a='"),
        ([], {"TEXT_CLS_BUNDLE": "a=x;b="}, "TEXT_CLS_BUNDLE: must be a folder, or name=folder, not 'b='"),
        (["--bundle", "a=x", "--split", "b=1"], {}, "--split b: no bundle has this name; known are a"),
        (["--split", "a=0,b=1"], {}, "argument --split: must be shares above 0, such as old=90,new=10, not 'a=0,b=1'"),
        (["--split", "a=1,a=1"], {}, "argument --split: must be shares above 0"),
        (["--split", "a=nan"], {}, "argument --split: must be shares above 0"),
        (["--split", "a"], {}, "argument --split: must be shares above 0"),
    ],
)
def test_invalid_settings(argv, environ, message):
    with pytest.raises(settings.UserError) as error:
        settings.parse_args(argv, environ=environ)
    assert message in str(error.value)


def test_bundles_have_names(tmp_path):
    def names(*words, **environ):
        return settings.parse_args(words, environ={f"TEXT_CLS_{key}": value for key, value in environ.items()}).bundle

    assert names() == [("export", str(ROOT / "export"))]
    assert names("--bundle", "models/news/") == [("news", "models/news/")]
    assert names("--bundle", "a=x", "--bundle", "b=y=z") == [("a", "x"), ("b", "y=z")]
    assert names(BUNDLE="a=x;b=y") == [("a", "x"), ("b", "y")]
    assert names("--bundle=c=x", BUNDLE="a=x;b=y") == [("c", "x")]  # flags win, and do not add
    assert names("--bundle", "./run=3/export") == [("export", "./run=3/export")]  # no name has a slash
    odd = tmp_path / "a=b;c"
    odd.mkdir()
    assert names("--bundle", str(odd)) == names(BUNDLE=str(odd)) == [("a=b;c", str(odd))]


def test_a_failed_start_is_reported_in_a_sentence(run, tmp_path):
    status, log = run(server.main, "--max_texts", "x")
    assert status == 2 and "argument --max_texts: must be a whole number" in log and "--help" in log
    words = ("server.py", "--bundle", tmp_path, "--port", 0)
    answer = subprocess.run(
        command_line(*words), cwd=ROOT / "deploy" / "simple_serving", capture_output=True, text=True, encoding="utf-8"
    )
    assert answer.returncode == 2 and "name a folder that export_model.py or prune.py wrote" in answer.stderr
    assert "Traceback" not in answer.stderr and answer.stderr.count("name a folder") == 1


def test_a_package_that_is_missing_is_named(bundles):
    code = "import sys; sys.modules['onnxruntime'] = None; import server; sys.exit(server.main(sys.argv[1:]))"
    answer = subprocess.run(
        command_line("-c", code, "--bundle", bundles["news"], "--port", 0),
        cwd=ROOT / "deploy" / "simple_serving",
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    assert answer.returncode == 2 and "Traceback" not in answer.stderr, answer.stderr
    assert "onnxruntime" in answer.stderr and "pip install -r deploy/predictor/requirements-cpu.txt" in answer.stderr


@pytest.mark.parametrize("error", [ValueError("current limit exceeds maximum limit"), OSError("not permitted")])
def test_a_system_that_allows_no_more_connections(monkeypatch, error):
    import resource

    def refuse(*_):
        raise error

    monkeypatch.setattr(resource, "setrlimit", refuse)
    server.allow_connections()


def test_a_port_in_use(run, bundles):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        status, log = run(server.main, "--bundle", bundles["news"], "--port", taken.getsockname()[1])
    assert status == 2 and "choose another, or stop the program that uses it" in log
