"""index.py add, remove and list, on both kinds of index."""

import subprocess

import numpy as np
import pytest
from conftest import ROOT, command_line, lines_of, write_lines
from hypothesis import given, settings
from hypothesis import strategies as st
from index_commands import HOSTILE, KINDS, entries_of, manifest_of, nearest, script

from text_cls.bundle import open_bundle, replace_decision
from text_cls.decision import Decision
from text_cls.search.open_index import open_index
from text_cls.serving import open_predictor


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("corpus", ["labels", "rows"])
@pytest.mark.parametrize("task", ["news", "reviews"])
def test_an_added_label_is_found_at_once_and_a_removed_one_never_again(indexed_bundle, run_index, task, corpus, kind):
    folder, text = indexed_bundle(task, corpus, kind), "量子纠缠态首次在太空验证"
    flags = ("--text", text, "好" * 2000) if corpus == "rows" else ()
    before = lines_of(folder / "label.txt")
    for name in ["量子", *HOSTILE]:
        run_index("add", folder, "--label", name, *flags)
        asked = name if corpus == "labels" else text
        names, cosine, highest = nearest(folder, asked)
        assert names == (name,) and cosine == pytest.approx(1, abs=1e-5) and (corpus == "rows" or highest == name)
        predictor = open_predictor(str(folder), num_threads=1)
        assert predictor.labels.names == [*before, name] == lines_of(folder / "label.txt")
        log = run_index("remove", folder, "--label", name)
        assert "Removed 1 label from " in log
        predictor = open_predictor(str(folder), num_threads=1)
        assert predictor.labels.names == before and predictor.probabilities([asked]).shape == (1, len(before))
        found = predictor.index.search(predictor.embed([asked]), len(predictor.index))
        assert name not in {one for names in found.labels[0] for one in names}
        assert name not in predictor.index.labels()


@pytest.mark.parametrize("kind", KINDS)
def test_any_order_of_adding_and_removing(indexed_bundle, run_index, kind):
    """The bundle's labels and the entries of its index match a list and a dict kept by the test."""
    folder = indexed_bundle("news", "labels", kind)
    pieces = st.lists(st.sampled_from(["a", "b", "<i>", "😀 '\""]), min_size=1, max_size=3)

    @settings(max_examples=5, deadline=None)
    @given(st.lists(st.tuples(pieces, st.booleans()), min_size=1, max_size=5))
    def check(steps):  # each example starts from what the one before left
        labels, entries = lines_of(folder / "label.txt"), entries_of(folder)
        for parts, removes in steps:
            name, parent = "##".join(parts), "##".join(parts[:-1])
            if name in labels and removes:
                run_index("remove", folder, "--label", name, "--with_children")
                labels = [other for other in labels if not f"{other}##".startswith(f"{name}##")]
                entries = {other: count for other, count in entries.items() if other in labels}
                if parent and not any(other.startswith(f"{parent}##") for other in labels):
                    entries.setdefault(parent, 1)
            else:
                run_index("add", folder, "--label", name, "--text", "又一句")
                above = ["##".join(parts[: i + 1]) for i in range(len(parts))]
                labels += [path for path in above if path not in labels]
                entries[name] = entries.get(name, 1) + 1
            assert lines_of(folder / "label.txt") == labels and entries_of(folder) == dict(sorted(entries.items()))
            predictor = open_predictor(str(folder), num_threads=1)
            assert predictor.labels.names == labels and manifest_of(folder)["num_labels"] == len(labels)
            found = predictor.index.search(predictor.embed(["又一句"]), 1000).labels[0]
            assert {one for names in found for one in names} == set(entries)

    check()


def test_missing_parents_are_added_and_logged(indexed_bundle, run_index):
    folder = indexed_bundle()
    names = lines_of(folder / "label.txt")
    log = run_index("add", folder, "--label", "天文##行星##火星", "--text", "火星车着陆", "火星表面")
    assert "Added 3 entries and 3 labels: 天文, 天文##行星, 天文##行星##火星" in log
    assert "Among them, parents that were missing: 天文, 天文##行星\n" in log
    assert lines_of(folder / "label.txt") == [*names, "天文", "天文##行星", "天文##行星##火星"]
    assert {name: count for name, count in entries_of(folder).items() if "天文" in name} == {"天文##行星##火星": 3}
    assert nearest(folder, "火星车着陆")[2] == "天文##行星##火星"
    ((found, _),) = open_predictor(str(folder), num_threads=1).predict(["火星车着陆"])
    assert {"天文", "天文##行星", "天文##行星##火星"} <= set(found)
    assert "parents" not in run_index("add", folder, "--label", "天文##行星##木星")


def test_a_label_with_children_is_removed_only_with_them(indexed_bundle, run_index, refused_index):
    folder = indexed_bundle()
    for name in ("天文##行星##火星", "天文##行星##木星"):
        run_index("add", folder, "--label", name)
    log = refused_index("remove", folder, "--label", "天文##行星")
    assert "below it are 天文##行星##火星, 天文##行星##木星; --with_children removes these, too" in log
    refused_index("remove", folder, "--label", "天文##行星", "天文##行星##火星")
    log = run_index("remove", folder, "--label", "天文##行星", "--with_children")
    assert "Removed 3 labels from 2 entries" in log
    # the parent has lost its children, and gets an entry of its own
    assert [name for name in entries_of(folder) if "天文" in name] == ["天文"]
    assert nearest(folder, "天文")[2] == "天文"
    run_index("add", folder, "--label", "天文##行星")
    run_index("remove", folder, "--label", "天文", "天文##行星")
    assert not [name for name in lines_of(folder / "label.txt") if "天文" in name]


def test_a_label_that_ends_with_a_separators_character(indexed_bundle, run_index):
    """C# is no child of C."""
    folder = indexed_bundle()
    run_index("add", folder, "--label", "编程##C")
    log = run_index("add", folder, "--label", "编程##C###框架")
    assert "Added 1 entry and 2 labels: 编程##C#, 编程##C###框架" in log and "missing: 编程##C#\n" in log
    assert nearest(folder, "编程,C#,框架")[1] == pytest.approx(1, abs=1e-5)
    run_index("remove", folder, "--label", "编程##C")
    assert [name for name in lines_of(folder / "label.txt") if "编程" in name] == ["编程", "编程##C#", "编程##C###框架"]


def test_names_that_look_alike(indexed_bundle, run_index, refused_index, tmp_path):
    folder = indexed_bundle()
    run_index("add", folder, "--label", "Santé##a")
    before = lines_of(folder / "label.txt")
    run_index("add", folder, "--label", "Sante\u0301 ## a\u200b", "--text", "一句话")
    assert lines_of(folder / "label.txt") == before and entries_of(folder)["Santé##a"] == 2
    log = refused_index("add", folder, "--label", "santé##b")
    assert "--label: label 'santé' differs from 'Santé' only in letter case or full width, which the bundle has" in log
    write_lines(tmp_path / "labels.txt", ["新A", "新a"])
    log = refused_index("add", folder, "--corpus_file", tmp_path / "labels.txt")
    assert "labels.txt:2: label '新a' differs from '新A' only in letter case or full width" in log
    run_index("remove", folder, "--label", "Sante\u0301", "--with_children")
    assert not [name for name in lines_of(folder / "label.txt") if "Sant" in name]


def test_a_label_is_removed_from_rows_and_rows_without_another_are_removed(indexed_bundle, run_index):
    folder = indexed_bundle("reviews", "rows")
    before, counts = len(open_index(str(folder), manifest_of(folder))), entries_of(folder)
    name = max(counts, key=counts.get)
    log = run_index("remove", folder, "--label", name)
    after = open_index(str(folder), manifest_of(folder))
    assert f"Removed 1 label from {counts[name]} entries" in log and name not in after.labels()
    assert before - counts[name] <= len(after) < before
    assert {other: count for other, count in counts.items() if other != name} == after.labels()


def test_thresholds_follow_the_names(indexed_bundle, run_index):
    folder = indexed_bundle("reviews")
    names = lines_of(folder / "label.txt")
    thresholds = [round(0.1 + 0.05 * i, 2) for i in range(len(names))]
    replace_decision(open_bundle(str(folder)), Decision(tuple(thresholds), none_below=0.2, none_label=1))
    run_index("add", folder, "--label", "新")
    run_index("remove", folder, "--label", names[0])
    decision = open_bundle(str(folder)).decision
    assert decision.threshold == (*thresholds[1:], float(np.median(thresholds)))
    assert decision.none_label == 0 and decision.none_below == 0.2
    run_index("remove", folder, "--label", names[1])
    assert open_bundle(str(folder)).decision.none_label is None


def test_labels_of_a_file(indexed_bundle, run_index, refused_index, tmp_path):
    folder, file = indexed_bundle(), tmp_path / "new.txt"
    write_lines(file, ["天文##行星", "", "天文", "生态气象##污染", *HOSTILE])
    log = run_index("add", folder, "--corpus_file", file)
    assert f"Added {2 + len(HOSTILE)} entries and {2 + len(HOSTILE)} labels" in log  # 污染 has an entry already
    assert [entries_of(folder)[name] for name in ("天文", "天文##行星", *HOSTILE)] == [1] * (2 + len(HOSTILE))
    assert "Added 0 entries and 0 labels" in run_index("add", folder, "--corpus_file", file)
    write_lines(file, ["a,b", "c\td", "e####f", "x" * 70_000])
    log = refused_index("add", folder, "--corpus_file", file)
    assert "4 problems" in log and "new.txt:1: label 'a,b' contains a comma" in log and "new.txt:4" in log
    write_lines(file, [""])
    assert "no labels; write one per line" in refused_index("add", folder, "--corpus_file", file)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_a_file(indexed_bundle, run_index, refused_index, tmp_path, kind):
    folder, file = indexed_bundle("news", "rows", kind), tmp_path / "new.txt"
    many = [f"天文##第{i}" for i in range(20)]
    write_lines(file, ["火星车着陆\t天文##行星", "没有标签", f"{'长' * 2000}\t{','.join(many)}", "😀\t生态气象##污染"])
    before = len(open_index(str(folder), manifest_of(folder)))
    log = run_index("add", folder, "--corpus_file", file)
    assert "Added 3 entries and 22 labels" in log and "天文" in log
    counts = entries_of(folder)
    assert counts["天文"] == 2 and counts["天文##行星"] == 1 and counts["天文##第19"] == 1
    assert len(open_index(str(folder), manifest_of(folder))) == before + 3
    found = open_predictor(str(folder), num_threads=1)
    nearest = found.index.search(found.embed(["长" * 2000]), 1).labels[0][0]
    assert set(nearest) == {"天文", *many}
    write_lines(file, ["a\tb\tc", "\t天文", "文\ta####b"])
    log = refused_index("add", folder, "--corpus_file", file)
    assert "new.txt:1: 2 tabs" in log and "empty level" in log
    write_lines(file, ["没有标签"])
    assert "no row has a label" in refused_index("add", folder, "--corpus_file", file)


@pytest.mark.parametrize(
    "name", ["a,b", "a\tb", "", "  ", "a\nb", "a\rb", "a####b", "##a", "a##", "x" * 70_000, "\udcff"]
)
def test_names_that_cannot_be_in_a_label_file_are_refused(indexed_bundle, refused_index, name):
    assert "--label" in refused_index("add", indexed_bundle(), f"--label={name}")


def test_faults_say_what_to_do(indexed_bundle, refused_index, tmp_path):
    labels, rows = indexed_bundle("news", "labels"), indexed_bundle("news", "rows")
    first = lines_of(labels / "label.txt")[1]
    assert "this label already exists; to add texts" in refused_index("add", labels, "--label", first)
    assert refused_index("add", labels).count("use either --label or --corpus_file") == 1
    assert "use either" in refused_index("add", labels, "--label", "a", "--corpus_file", "b")
    assert "--text goes with --label" in refused_index("add", labels, "--corpus_file", "b", "--text", "c")
    assert "an empty text" in refused_index("add", labels, "--label", "a", "--text", " ")
    assert "add texts that have the label: --text" in refused_index("add", rows, "--label", "a")
    assert "no such label; did you mean" in refused_index("remove", labels, "--label", f"{first}x")
    names = [name for name in lines_of(labels / "label.txt") if "##" not in name]
    assert "no label would be left" in refused_index("remove", labels, "--label", *names, "--with_children")
    assert "name the labelled rows, --corpus_file" in refused_index("build", labels, "--corpus", "rows")
    log = refused_index("build", labels, "--corpus_file", tmp_path / "no.txt", "--index_type", "FLAT")
    assert "2 problems" in log and "no.txt" in log and "--index_type is for Milvus" in log
    assert "--vote counts labelled rows" in refused_index("build", labels, "--vote")
    log = refused_index("build", labels, "--milvus_uri", "http://root:secret@h:1")
    assert "MILVUS_TOKEN" in log and "secret" not in log
    write_lines(tmp_path / "rows.txt", ["文\t没有这个标签"])
    log = refused_index("build", labels, "--corpus", "rows", "--corpus_file", tmp_path / "rows.txt")
    assert "'没有这个标签' is not in the label file" in log
    write_lines(tmp_path / "rows.txt", ["文"])
    assert "no row has a label" in refused_index(
        "build", labels, "--corpus", "rows", "--corpus_file", tmp_path / "rows.txt"
    )
    (labels / "mine.txt").write_text("x", encoding="utf-8")
    log = refused_index("remove", labels, "--label", "nothing")
    assert "2 problems" in log and "mine.txt, which would be lost" in log


def test_anything_but_a_retrieval_bundle_is_refused(bundles, run, tmp_path):
    for command, flags in (("build", ()), ("add", ("--label", "a")), ("remove", ("--label", "a")), ("list", ())):
        status, log = run(script.main, command, "--bundle", bundles["news"], *flags)
        assert status == 2 and "retrieval_based/export_model.py" in log
        status, log = run(script.main, command, "--bundle", tmp_path / "no", *flags)
        assert status == 2 and "manifest.json: No such file" in log


def test_one_label_is_logged_in_the_singular(indexed_bundle, run_index):
    folder = indexed_bundle()
    assert "Added 1 entry and 1 label: 新\n" in run_index("add", folder, "--label", "新")
    assert "Removed 1 label from 1 entry\n" in run_index("remove", folder, "--label", "新")


def test_an_add_beyond_the_memory_is_refused_before_texts_are_encoded(indexed_bundle, refused_index, monkeypatch):
    folder, asked = indexed_bundle(), []
    monkeypatch.setattr(script, "memory_problem", lambda *size: asked.append(size) or "too much")
    entries, width = len(open_index(str(folder), manifest_of(folder))), manifest_of(folder)["width"]
    assert "too much" in refused_index("add", folder, "--label", "新", "--text", "一", "二")
    assert asked == [(entries + 3, width)]


def test_from_inside_the_folder_and_without_paddle(indexed_bundle):
    folder = indexed_bundle()
    code = (
        "import sys; sys.modules['paddle'] = sys.modules['paddlenlp'] = None; sys.argv[0] = 'index.py'; import index; "
        "sys.exit(index.main())"
    )
    for flags in (("add", "--bundle", folder, "--label", "新##<b>"), ("list", "--bundle", folder)):
        done = subprocess.run(
            command_line("-c", code, *flags), cwd=ROOT / "retrieval_based", capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-2:] == ["新\t0", "新##<b>\t1"]
    assert done.stdout.splitlines() == [f"{n}\t{entries_of(folder).get(n, 0)}" for n in lines_of(folder / "label.txt")]


def test_a_reader_that_stops_early(indexed_bundle):
    folder = indexed_bundle()
    words = command_line(ROOT / "retrieval_based" / "index.py", "list", "--bundle", folder)
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.close()
    _, error = process.communicate()
    assert process.returncode == 0 and "Traceback" not in error and "BrokenPipe" not in error
