"""Benchmarks that take hours, on a few rows: pretrained, cascade, head_start, trainers, zero_shot, long_texts ..."""

import argparse
import json
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from conftest import ROOT, lines_of, load_script, write_lines
from long_documents import EVIDENCE, write_documents

from text_cls.locks import write_lock

PROJECT = sys.modules["project"] = load_script("benchmarks/project.py")
for module in ("kept_runs", "e5_model", "public_sets", "small_model", "tables", "few_shot"):
    PROJECT.load(f"benchmarks/{module}.py")
KEPT, E5, SETS = (sys.modules[name] for name in ("kept_runs", "e5_model", "public_sets"))
PRETRAINED, HEAD_START, TRAINERS, ZERO_SHOT, LONG_TEXTS = (
    PROJECT.load(f"benchmarks/{name}.py")
    for name in ("pretrained", "head_start", "trainers", "zero_shot", "long_texts")
)
TEACHER = load_script("benchmarks/teacher.py")
CASCADE = PROJECT.load("benchmarks/cascade.py")
SEARCH = load_script("benchmarks/search.py")  # another script has this name, too
TINY = "--max_seq_length 16 --batch_size 8 --learning_rate 1e-3"
BENCH = ROOT / ".venv-bench/bin/python"


@pytest.fixture
def home(tmp_path, tiny_model, monkeypatch):
    """A folder for kept runs, with a tiny encoder, and a small set for a public one."""
    for name in ("duee", "cail-divorce"):
        (tmp_path / name).mkdir()
        for file, count in (("train.txt", 160), ("dev.txt", 40), ("label.txt", None)):
            write_lines(tmp_path / name / file, lines_of(ROOT / "data/multi_label" / file)[:count])
    for module in (PRETRAINED, CASCADE, HEAD_START, TRAINERS):
        monkeypatch.setattr(module, "DATA", tmp_path)
    monkeypatch.setattr(KEPT, "HOME", tmp_path / "kept")
    monkeypatch.setattr(KEPT, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(E5, "make", lambda *_: tiny_model)
    handler = signal.getsignal(signal.SIGTERM)
    yield tmp_path
    signal.signal(signal.SIGTERM, handler)


def test_a_part_of_train_is_held_out(home):
    (home / "split").mkdir()
    SETS.hold_out(home / "duee", 0.1, 3, home / "split")
    kept, held = (lines_of(home / "split" / file) for file in ("train.txt", "held.txt"))
    assert sorted(line.rstrip("\t") for line in kept + held) == sorted(lines_of(home / "duee" / "train.txt"))
    assert 12 <= len(held) <= 20


def test_pretrained_scores_dev_and_says_what_is_finished(home, run, monkeypatch):
    flags = ("--sets", "duee", "--seeds", 3, "--layers", 6, f"--training={TINY} --epochs 2")
    assert run(PRETRAINED.main, *flags, "--list")[1].split() == ["duee-6-seed3", "missing"]
    status, output = run(PRETRAINED.main, *flags)
    assert status == 0, output
    lines = {line.split(" | ")[0]: line.split(" | ")[1:] for line in output.splitlines() if line.startswith("| ")}
    scores = lines["| linear model of n-grams"][:4] + lines["| e5, 6 layers, seeds: 1"][:4]
    assert all(0 <= float(score) <= 100 for score in scores)
    assert lines["| ERNIE 3.0 Nano (the guide's)"][:2] == ["93.98", "91.25"]
    assert run(PRETRAINED.main, *flags, "--list")[1].split() == ["duee-6-seed3", "finished"]
    monkeypatch.setattr(PRETRAINED, "fine_tune", None)  # it is not done again
    assert "seeds: 1" in run(PRETRAINED.main, *flags)[1]
    shutil.rmtree(KEPT.HOME)  # on another machine, which has only what was committed
    assert "seeds: 1" in run(PRETRAINED.main, *flags)[1]
    monkeypatch.setattr(KEPT, "code", lambda: "new")
    assert "with other code than today's" in run(PRETRAINED.main, *flags, "--list")[1]
    assert "missing" in run(PRETRAINED.main, *flags[:-1], f"--training={TINY} --epochs 3", "--list")[1]


def test_students_beside_their_teacher(home, run, monkeypatch):
    monkeypatch.setattr(TEACHER, "DATA", home)
    monkeypatch.setattr(TEACHER, "WIDTHS", {1: "1/2"})
    alone, taught = f"{TINY} --epochs 2", f"{TINY} --epochs 1 --teacher_weight 0.5"
    flags = ("--labelled", 90, f"--alone={alone}", f"--taught={taught}")
    students = ["layers1-taught", "linear-alone", "linear-taught"]
    assert run(TEACHER.main, *flags, "--only", "linear-taught-seed3")[0] != 0  # there is no teacher yet
    status, output = run(TEACHER.main, *flags, "--only", "teacher-seed3", *(f"{name}-seed3" for name in students))
    assert status == 0, output
    lines = {line.split(" | ")[0][2:]: line for line in output.splitlines() if line.startswith("| ")}
    assert sorted(lines) == sorted(["model", "---", "teacher", *students])
    assert lines["linear-taught"].count("%") == 2 or "no gap" in lines["linear-taught"]
    assert run(TEACHER.main, *flags, "--list")[1].count("finished") == 4


def test_a_linear_model_is_put_beside_a_pretrained_one(home, run, monkeypatch):
    monkeypatch.setattr(PRETRAINED, "HELD", 0.4)  # enough rows to fit to
    assert run(CASCADE.main, "--list")[1] == ""  # nothing that pretrained.py trained
    flags = ("--sets", "duee", "--seeds", 3)
    assert run(PRETRAINED.main, *flags, "--layers", 6, f"--training={TINY} --epochs 1")[0] == 0
    assert run(CASCADE.main, *flags, "--list")[1].split() == ["cascade-duee-6-seed3", "missing"]
    status, output = run(CASCADE.main, *flags)
    assert status == 0, output
    head, *lines = (line for line in output.splitlines() if line.startswith(("run ", "duee-6-seed3 ")))
    assert [line.split()[:2] for line in lines] == [
        ["duee-6-seed3", way] for way in ("neural", *CASCADE.TOGETHER, "alone")
    ]
    assert head.split()[-2:] == ["texts/s", "speed"] and lines[0].endswith("1.00x")
    assert lines[1].count("%") == lines[3].count("%") == 2 and "%" not in lines[0] + lines[2] + lines[4]
    assert run(CASCADE.main, *flags, "--list")[1].split() == ["cascade-duee-6-seed3", "finished"]


def test_long_texts_are_scored_with_their_evidence(home, run, monkeypatch):
    """Documents whose labels show in one sentence each: the deciding window has it, a random one seldom."""
    folder = write_documents(home / LONG_TEXTS.SET, train=60, dev=20)
    evidence = []
    for line in lines_of(folder / "dev.txt"):
        text, _, names = line.partition("\t")
        places = {name: text.index(EVIDENCE[name]) for name in names.split(",")}
        evidence.append({name: [[place, place + len(EVIDENCE[name])]] for name, place in places.items()})
    write_lines(folder / "dev.evidence.jsonl", [json.dumps(found, ensure_ascii=False) for found in evidence])
    monkeypatch.setattr(LONG_TEXTS, "DATA", home)
    ways = {"cut": ("--max_seq_length 32", True), "windows": (f"--max_seq_length 32 {LONG_TEXTS.WINDOWS} max", False)}
    monkeypatch.setattr(LONG_TEXTS, "WAYS", ways)
    flags = ("--ways", *ways, "--seeds", 3, 4, "--training=--batch_size 8 --learning_rate 3e-3 --epochs 3")
    listed = run(LONG_TEXTS.main, *flags, "--list")[1]
    assert listed.split() == ["cut-seed3", "missing", "windows-seed3", "missing", "cut-seed4", "missing"]
    status, output = run(LONG_TEXTS.main, *flags)
    assert status == 0, output
    lines = {line.split(" | ")[0]: line.strip("|").split(" | ")[1:] for line in output.splitlines() if "| " in line}
    cut, windows = lines["| cut, seeds: 2"], lines["| windows, seeds: 1"]
    assert "(" in cut[0] and cut[-1].strip(" |") == cut[-2].strip() == ""
    assert all(0 <= float(value) <= 100 for value in windows[:2]) and float(windows[3].replace(",", "")) > 100
    assert float(windows[-2]) > float(windows[-1].strip(" |"))
    assert [line for line in lines if "linear model" in line] == [
        f"| linear model, {name}" for name in LONG_TEXTS.LINEAR
    ]


def test_windows_and_evidence_overlap_if_they_share_a_character():
    assert LONG_TEXTS.overlaps((10, 20), [[0, 5], [19, 30]]) and LONG_TEXTS.overlaps((10, 20), [[0, 11]])
    assert not LONG_TEXTS.overlaps((10, 20), [[0, 10], [20, 30]])


def test_the_linear_model_is_that_of_check_data(home, tmp_path):
    (tmp_path / "out").mkdir()
    PROJECT.run_script("analysis/check_data.py", "--dataset_dir", home / "duee", "--output_dir", tmp_path / "out")
    baseline = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))["baseline"]
    found = PRETRAINED.linear_scores("duee")
    assert found["plain"] == pytest.approx(SETS.percent(baseline["dev"]))
    assert found["fitted"] == pytest.approx(SETS.percent(baseline["dev_with_thresholds"]))


def test_a_stopped_run_goes_on(home, tiny_model, monkeypatch):
    """As a user stops it: the benchmark gets SIGTERM, train.py saves, and the next start resumes."""
    program = home / "program.py"
    write_lines(
        program,
        [
            "import sys",
            "from pathlib import Path",
            f"sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / 'benchmarks')!r}]",
            "import e5_model, head_start, kept_runs",
            f"head_start.DATA, kept_runs.HOME = Path({str(home)!r}), Path({str(home / 'kept')!r})",
            f"kept_runs.RESULTS = Path({str(home / 'results')!r})",
            'head_start.EPOCHS["500"] = 40',
            f"e5_model.make = lambda *_: {str(tiny_model)!r}",
            "sys.exit(head_start.main())",
        ],
    )
    words = ["--rows", "500", "--ways", "prior", "--seeds", "3", f"--training={TINY} --logging_steps 1"]
    monkeypatch.setitem(HEAD_START.EPOCHS, "500", 40)  # seconds even on a fast machine: the signal comes before the end
    command = [sys.executable, str(program), *words]
    first = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    (planned,) = HEAD_START.planned(HEAD_START.parse_args(words))
    log = planned.folder / "log.txt"
    while "global step" not in (log.read_text(encoding="utf-8") if log.exists() else ""):
        assert first.poll() is None, first.communicate()[0].decode()
        time.sleep(0.05)
    first.send_signal(signal.SIGTERM)
    first.communicate()
    assert first.returncode
    assert planned.result() is None
    spent = json.loads((planned.folder / "times.json").read_text(encoding="utf-8"))
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    assert "resuming at step" in log.read_text(encoding="utf-8")
    assert planned.result()["cpu_seconds"] > spent["cpu_seconds"] > 0
    assert [line for line in done.stdout.splitlines() if line.startswith("| prior, macro |")]
    assert not (planned.folder / "checkpoint").exists()


def args_of(*words):
    parser = argparse.ArgumentParser()
    KEPT.add_flags(parser)
    return parser.parse_args(words)


def test_runs_are_kept_and_shared(home, capsys):
    runs, done = [KEPT.Run(name, {"x": 1}) for name in "abc"], []

    def execute(run):
        done.append(run.name)
        run.script("-c", "print(1)")
        return {"value": 1}

    with write_lock(runs[0].folder):  # of another process that is at it
        finished = KEPT.finish(args_of("--only", "a", "b"), runs, execute)
    assert [run.name for run, _ in finished] == done == ["b"]
    assert "a is left out" in capsys.readouterr().out
    assert [run.name for run, _ in KEPT.finish(args_of(), runs, execute)] == ["a", "b", "c"]
    assert sorted(done) == ["a", "b", "c"]
    assert lines_of(runs[1].folder / "log.txt") == ["1"]
    with pytest.raises(SystemExit, match="no run is named d"):
        KEPT.finish(args_of("--only", "d"), runs, execute)


def test_the_encoder_is_made_once(tmp_path, monkeypatch):
    made = []

    def make(script, _, folder, *flags):
        time.sleep(0.2)
        folder.mkdir()
        made.append(flags)

    monkeypatch.setattr(KEPT, "HOME", tmp_path / "kept")
    monkeypatch.setattr(E5, "run_script", make)
    with ThreadPoolExecutor() as pool:
        folders = [*pool.map(E5.make, [6, 6])]
    assert folders == [tmp_path / "kept" / "e5-6-mean"] * 2
    assert made == [("--layers", *"2 4 6 8 10 12".split(), "--pooling", "mean")]


def test_a_script_that_fails_ends_the_benchmark(home):
    failing = KEPT.Run("a", {})
    with pytest.raises(SystemExit, match=r"-c exited with status 1; see .*log.txt"):
        KEPT.finish(args_of(), [failing], lambda run: run.script("-c", "raise KeyError('this one')"))
    assert "this one" in (failing.folder / "log.txt").read_text(encoding="utf-8")
    assert failing.result() is None


def test_few_rows_have_each_label(home):
    gold = np.zeros((40, 3), dtype=bool)
    gold[:20, 0] = gold[10:40, 1] = gold[38:, 2] = True
    chosen = TRAINERS.some_of_each(gold, np.random.default_rng(3).permutation(40), 4)
    assert len(set(chosen)) == len(chosen) <= 4 + 4 + 2
    assert (gold[chosen].sum(axis=0) >= [4, 4, 2]).all()


def test_weights_for_torch_are_the_same_model(tiny_model, tmp_path):
    """This project reads Hugging Face's folders, too, and is tested against them."""
    import paddle

    from text_cls.neural.hugging_face import load_classifier
    from text_cls.neural.model import encode, load_pretrained, predict_logits

    model, tokenizer = load_pretrained(str(tiny_model), 3)
    model.classifier.bias.set_value(paddle.to_tensor([0.1, 0.2, 0.3]))
    tokens = encode(["北京发生地震", "我要退货"], tokenizer, model, 16)
    TRAINERS.write_for_torch(model, True, [], [], tmp_path)
    (tmp_path / "encoder" / "vocab.txt").write_bytes((tiny_model / "vocab.txt").read_bytes())
    again, _ = load_classifier(str(tmp_path / "encoder"), 3)
    np.testing.assert_allclose(predict_logits(again, tokens, 2), predict_logits(model, tokens, 2), atol=1e-5)


@pytest.mark.parametrize("side", TRAINERS.SIDES)
def test_each_side_trains_and_is_scored(home, run, side):
    if TRAINERS.SIDES[side][1] and not BENCH.exists():
        pytest.skip("make bench-setup")
    status, output = run(TRAINERS.main, "--rows", "8-per-label", "--seeds", 3, "--sides", side)
    assert status == 0, output
    (line,) = (line for line in output.splitlines() if line.startswith(f"| {side} |"))
    assert all(float(value) >= 0 for value in line.strip("| ").split(" | ")[1:])


def test_a_search_is_kept(home, run, monkeypatch):
    def script(run, *words):
        folder = words[words.index("--output_dir") + 1]
        folder.mkdir()
        write_lines(folder / "best.yaml", [f"# {words[words.index('--trials') + 1]} trials", "epochs: 5"])
        write_lines(run.folder / "times.json", ['{"seconds": 1, "cpu_seconds": 1800}'])

    monkeypatch.setattr(KEPT.Run, "script", script)
    status, output = run(SEARCH.main, "--trials", 7)
    assert status == 0 and "0.50 CPU hours" in output and output.endswith("7 trials\n\nepochs: 5\n"), output
    assert run(SEARCH.main, "--trials", 7, "--list")[1].split() == ["search-7", "finished"]


def test_the_curve_by_labelled_rows(home, run, monkeypatch):
    """Every way writes its figures, on the rows that a seed draws; features are computed once."""
    monkeypatch.setattr(ZERO_SHOT, "SETS", {"duee": (home / "duee", "这句话包含的要素有")})
    assert [ZERO_SHOT.epochs_for(rows) for rows in (19, 74, 900, 3500, 12000)] == [32, 8, 3, 2, 1]
    monkeypatch.setattr(ZERO_SHOT, "LEAST", 60)
    flags = ("--sets", "duee", "--seeds", 3, "--rows", 0, 1)
    status, output = run(ZERO_SHOT.main, *flags, "--only", "duee-head-1-seed3")
    assert status == "the features are missing; first: --sets duee --only duee-features"
    status, output = run(ZERO_SHOT.main, *flags)
    assert status == 0, output
    lines = {line.split(" | ")[0]: line.strip("|").split(" | ")[1:] for line in output.splitlines() if "| " in line}
    for way in ZERO_SHOT.WAYS:
        for score in ("micro", "macro"):
            values = [value.strip(" |") for value in lines[f"| {way}, {score}"]]
            (found,) = filter(None, values)
            assert values.index(found) == (way != "zero-shot") and 0 <= float(found) <= 100
    assert [value.strip(" |") for value in lines["| labelled rows"]] == ["0", "19"]
    assert "missing" not in run(ZERO_SHOT.main, *flags, "--list")[1]
    monkeypatch.setattr(ZERO_SHOT, "execute", None)  # nothing is done again
    assert run(ZERO_SHOT.main, *flags)[0] == 0
    shutil.rmtree(KEPT.HOME)  # the features are not committed, and nothing that needs them is missing
    assert run(ZERO_SHOT.main, *flags)[0] == 0
