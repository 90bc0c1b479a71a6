"""text_cls/config_file.py: what a config file means, and that no file ends in a traceback or takes long."""

import argparse
import json
import time

import pytest

from text_cls.cli import fraction, non_negative_float, positive_int
from text_cls.config_file import parse_with_config


def parser():
    p = argparse.ArgumentParser()
    p.add_argument("--config")
    p.add_argument("--dataset_dir", required=True)
    p.add_argument("--batch_size", type=positive_int, default=32)
    p.add_argument("--learning_rate", type=non_negative_float, default=1.0)
    p.add_argument("--note")
    p.add_argument("--share", type=fraction())
    p.add_argument("--kind", choices=("a", "b"))
    p.add_argument("--early_stop", action=argparse.BooleanOptionalAction, default=False)
    return p


def test_config_sets_defaults_and_the_command_line_wins(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("dataset_dir: data\nbatch_size: 8\nlearning_rate: 3e-5\nearly_stop: true\n", encoding="utf-8")
    args = parse_with_config(parser(), ["--config", str(path), "--batch_size", "4"])
    assert (args.dataset_dir, args.batch_size, args.learning_rate, args.early_stop) == ("data", 4, 3e-5, True)
    assert parse_with_config(parser(), ["--config", str(path), "--no-early_stop"]).early_stop is False


def test_config_as_json(tmp_path):
    path = tmp_path / "run.json"
    path.write_text(json.dumps({"dataset_dir": "数据", "early_stop": False}), encoding="utf-8")
    args = parse_with_config(parser(), ["--config", str(path)])
    assert args.dataset_dir == "数据" and args.early_stop is False


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("bach_size: 8", "there is no flag --bach_size; did you mean 'batch_size'?"),
        ("batch_size: many", "line 1: batch_size: must be a whole number of at least 1, not 'many'"),
        ("batch_size: 0", "must be a whole number of at least 1, not '0'"),
        ("early_stop: perhaps", "early_stop must be true or false"),
        ("- 1\n- 2", "expected lines of the form"),
        ("a: 'b", "not readable as JSON or YAML"),
    ],
)
def test_config_with_a_fault(tmp_path, capsys, content, message):
    path = tmp_path / "run.yaml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(SystemExit) as error:
        parse_with_config(parser(), ["--config", str(path), "--dataset_dir", "data"])
    assert error.value.code == 2
    assert message in capsys.readouterr().err


def test_a_missing_config_file(capsys):
    with pytest.raises(SystemExit):
        parse_with_config(parser(), ["--config", "nowhere.yaml"])
    assert "--config nowhere.yaml: No such file or directory" in capsys.readouterr().err


def parsed(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return parse_with_config(parser(), ["--config", str(path), "--dataset_dir", "data"])


@pytest.mark.parametrize(
    ("content", "name", "value"),
    [
        ("batch_size: 010", "batch_size", 10),  # 8 by the rules of YAML 1.1
        ("learning_rate: 1e-3", "learning_rate", 0.001),  # a text by these rules
        ("early_stop: on", "early_stop", True),
        ("early_stop: No", "early_stop", False),
        ("note: no", "note", "no"),  # false by these rules
        ("note: 2020-99-99", "note", "2020-99-99"),  # a date by these rules, and none
        ("note: 1:30", "note", "1:30"),  # 90 by these rules
        ("note: '010'  # comment", "note", "010"),
        ("note:", "note", None),
        ("note: null", "note", None),
        ("# nothing\n", "batch_size", 32),
        ("---\n...\n", "batch_size", 32),
        ("\ufeffbatch_size: 4\r\n", "batch_size", 4),
        ("{batch_size: 4}", "batch_size", 4),
        ('{\n\t"batch_size": 4,\n\t"note": "\\ud83d\\ude00"\n}', "note", "\U0001f600"),
        ('{"note": 1.50}', "note", "1.50"),
        ('{"early_stop": true, "note": null}', "early_stop", True),
    ],
)
def test_a_value_means_what_a_person_reads(tmp_path, content, name, value):
    assert getattr(parsed(tmp_path / "run.yaml", content), name) == value


LEVELS = ["&x0 [lol,lol]", *(f"&x{i} [{','.join([f'*x{i - 1}'] * 9)}]" for i in range(1, 12))]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("batch_size: 16\nbatch_size: 2", "line 2: 'batch_size' is given a second time"),
        ('{"batch_size": 16,\n\n "batch_size": 2}', "line 3: 'batch_size' is given a second time"),
        ("batch_size: 1:30", "batch_size: must be a whole number of at least 1, not '1:30'"),
        ("batch_size: " + "9" * 5000, "9...' is too large"),
        ('{"batch_size": ' + "9" * 5000 + "}", "9...' is too large"),
        ("learning_rate: " + "9" * 5000, "must be a number of at least 0, not '9"),
        ("note: " + "[" * 5000, "line 1: 'note' must be one value, not a list or a mapping"),
        ("note: " + "[" * 5000 + "]" * 5000, "line 1: 'note' must be one value"),
        ("note:\n" + "".join(f"{' ' * i}- \n" for i in range(1, 300)), "line 2: 'note' must be one value"),
        ('{"note": ' + "[" * 30000 + "]" * 30000 + "}", "line 1: 'note' must be one value"),
        ('{\n"note": {"a": 1}}', "line 2: 'note' must be one value"),
        ("[" * 5000, "expected lines of the form"),
        (f"note: [{','.join(LEVELS)}]", "line 1: 'note' must be one value"),
        ("batch_size: &a 4\nnote: *a", "line 2: 'note' is an alias (*a)"),
        ("<<: {batch_size: 4}", "line 1: '<<' must be one value"),
        ("? [a, b]\n: 4", "line 1: a flag must be one value"),
        ("note: !!python/object/apply:os.system [ls]", "must be one value"),
        ("note: !!python/name:os.system x", "line 1: 'note' has a tag"),
        ("batch_size: 4\n---\nbatch_size: 5", "contains a second document"),
        ('note: "\\0"', "line 1: 'note' contains characters that no flag can have"),
        ('{"note": "\\ud800"}', "line 1: 'note' contains characters that no flag can have"),
        ('note: "\\UFFFFFFFF"', "not readable as JSON or YAML"),
        ("note: \x01", "not readable as JSON or YAML"),
        ("%YAML " + "9" * 5000 + ".1\n---\nnote: 1", "not readable as JSON or YAML"),
        ("batch_size: 4\nnote: b: c", "line 2, column 8: mapping values are not allowed here"),
        ("note: 好".encode("gbk"), "line 1: not UTF-8; save the file as UTF-8"),
        ("note: x\n" * 100_000, "larger than 64 KiB"),
        ("x" * 60_000 + ": 1", "expected lines of the form"),
        ('{"' + "x" * 60_000 + '": 1}', "there is no flag --xxx"),
        ("early_stop:", "early_stop must be true or false"),
        ("share: 1.5", "line 1: share: must be a number at least 0 and below 1, not '1.5'"),
        ("kind: c", "line 1: kind: must be one of a, b, not 'c'"),
    ],
)
def test_no_file_is_a_traceback_or_takes_long(tmp_path, capsys, content, message):
    start = time.process_time()
    with pytest.raises(SystemExit) as error:
        parsed(tmp_path / "run.yaml", content)
    assert error.value.code == 2 and time.process_time() - start < 3
    text = capsys.readouterr().err
    assert message in text and f"--config {tmp_path / 'run.yaml'}: " in text
    assert len(text) < 1000


def test_a_fault_of_json_is_named_as_such(tmp_path, capsys):
    path = tmp_path / "run.json"
    with pytest.raises(SystemExit):
        parsed(path, '{\n\t"batch_size": 4\n\t"note": "x"\n}')
    assert "line 3, column 2: Expecting ',' delimiter" in capsys.readouterr().err
