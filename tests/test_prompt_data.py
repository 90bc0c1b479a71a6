"""few-shot/prompt_data.py: label words and rows, and everything train.py refuses before it starts."""

import shutil

import pytest
from conftest import lines_of, write_lines
from prompts import train

import prompt_data
from prompt_data import read_label_words, read_labelled
from text_cls.cli import Problems
from text_cls.rows import Labels


def test_label_words(tmp_path):
    write_lines(tmp_path / "label.txt", ["灾害==天灾", "灾害##火==火灾", "灾害##火 == 着火", "灾害##雨", "<b>"])
    problems = Problems()
    labels, words = read_label_words(str(tmp_path / "label.txt"), problems)
    assert not problems.count and labels.names == ["灾害", "灾害##火", "灾害##雨", "<b>"] and labels.hierarchical
    assert words == [["天灾"], ["火灾", "着火"], ["雨"], ["<b>"]]


def test_faulty_label_words_are_reported_with_their_lines(tmp_path):
    path = tmp_path / "label.txt"
    write_lines(path, ["a==", "b==x==y", "c==x", "c==x", "d", "d", "e,f==x", "", "g##h==x", "==x", "i== == x"])
    problems = Problems()
    read_label_words(str(path), problems)
    wanted = (
        "1: 'a=='",
        "2: 'b==x==y'",
        "4: label 'c' already has the word 'x'",
        "6: label 'd' is already on line 5",
        "7: label 'e,f' contains a comma",
        "8: empty line",
        "9: label 'g##h' has no parent here",
        "10: '==x': expected label or label==word",
        "11: 'i== == x': expected label",
    )
    assert problems.count == len(wanted)
    assert all(any(f"{path}:{text}" in message for message in problems.messages) for text in wanted)


def test_a_row_without_a_tab_is_refused(tmp_path):
    labels, path = Labels(["a", "b"]), tmp_path / "train.txt"
    write_lines(path, ["一\ta", "二", "", "三\t", "四\tc", "五"])
    problems = Problems()
    rows = read_labelled(str(path), labels, problems)
    assert problems.count == 3 and [list(rows.labels_of(i)) for i in (0, 2)] == [[0], []]
    for number in (2, 6):
        assert any(f"{path}:{number}: a row without labels; write" in message for message in problems.messages)


def test_all_faults_are_reported_at_once(train_prompt, few, tmp_path):
    (tmp_path / "out").mkdir()
    write_lines(tmp_path / "out" / "thesis.txt", ["mine"])
    (few / "dev.txt").unlink()
    flags = ("--do_train", "--device", "tpu", "--prompt", "{'prefix'}", "--max_steps", "0", "--learning_rate", "0")
    when = ("--load_best_model_at_end", "--evaluation_strategy", "no", "--save_strategy", "epoch")
    status, log = train_prompt(*flags, *when)
    assert status == 2 and "Traceback" not in log and "nothing was done" in log
    for text in (
        "--device tpu: expected cpu",
        "the folder holds thesis.txt, which would be lost",
        "prefix tuning adds vectors",
        "--evaluation_strategy no gives no scores to choose the best model by",
        "--max_steps: must be 1 or more",
        "--learning_rate 0",
        f"--data_dir {few}: there is no dev.txt",
        "--output_dir",
        "every scored model must be saved",
    ):
        assert text in log, text


def test_files_beside_an_interrupted_run_and_several_processes_are_refused(train_prompt, tmp_path, monkeypatch):
    (tmp_path / "out_last").mkdir()
    write_lines(tmp_path / "out_last" / "thesis.txt", ["mine"])
    monkeypatch.setenv("PADDLE_TRAINERS_NUM", "2")
    status, log = train_prompt("--do_train")
    assert status == 2 and f"{tmp_path}/out_last holds thesis.txt, which would be lost; move it elsewhere" in log
    assert "start it without paddle.distributed.launch" in log and (tmp_path / "out_last" / "thesis.txt").exists()


def test_faults_of_rows_and_labels(train_prompt, few):
    for name in ("train", "dev"):
        write_lines(few / f"{name}.txt", [*lines_of(few / f"{name}.txt"), "没有标签的一行", "错\t没有这个标签"])
    status, log = train_prompt("--do_train")
    assert status == 2 and log.count("a row without labels; write text<TAB>label,label") == 2
    assert f"{few}/train.txt:25: a row" in log and f"{few}/dev.txt:14: label '没有这个标签' is not in" in log


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ("--do_train", "--evaluation_strategy", "epoch", "--eval_steps", "5"),
            "--eval_steps has no effect with --evaluation_strategy epoch; leave one of them out",
        ),
        (
            ("--do_train", "--save_strategy", "epoch", "--save_steps", "5"),
            "--save_steps has no effect with --save_strategy epoch; leave one of them out",
        ),
        (("--do_train", "--eval_steps", "2", "--save_steps", "3"), "every scored model must be saved; save"),
        (
            ("--do_train", "--evaluation_strategy", "steps"),
            "--evaluation_strategy steps: set the number of steps, such as --eval_steps",
        ),
        (
            ("--do_train", "--save_strategy", "steps", "--load_best_model_at_end", "0"),
            "--save_strategy steps: set the number of steps, such as --save_steps 100",
        ),
        (("--do_train", "--max_steps", "-5"), "--max_steps: must be 1 or more, or -1 to count epochs instead"),
        ((), "nothing to do: use --do_train, --do_eval, --do_predict or --do_export"),
        (("--do_eval",), "--output_dir {out} does not exist; train first (python few-shot/train.py ...)"),
        (("--do_train", "--data_dir", "nowhere"), "--data_dir nowhere is not a folder; name the one with train.txt"),
        (("--do_train", "--max_seq_length", "5"), "--max_seq_length 5: the prompt alone takes 5 tokens"),
        (("--do_train", "--max_seq_length", "5000"), "--max_seq_length 5000: this model takes at most 2048 tokens"),
        (("--do_train", "--prompt", "是[PAD]"), "--prompt: [PAD] and [MASK] cannot be used as words"),
        (("--do_train", "--prompt", "是[MASK]"), "--prompt: [PAD] and [MASK] cannot be used as words"),
        (("--do_train", "--prompt", "{'soft': '\ufffd'}"), "--prompt: Soft prompt expected"),
        (
            ("--do_train", "--prompt", "{'soft': '一', 'soft_id': 1}{'soft': '一', 'soft_id': 1}"),
            "--prompt: write the words of a soft_id once",
        ),
        (
            ("--do_train", "--evaluation_strategy", "steps"),
            "--evaluation_strategy steps: set the number of steps, such as --eval_steps",
        ),
        (
            ("--do_train", "--load_best_model_at_end", "false", "--save_strategy", "steps"),
            "--save_strategy steps: set the number of steps, such as --save_steps",
        ),
        (
            ("--do_train", "--model_name_or_path", "./nowhere"),
            "--model_name_or_path ./nowhere: no such folder",
        ),
    ],
)
def test_what_is_refused(train_prompt, tmp_path, flags, message):
    status, log = train_prompt("--prompt", "[UNK]是", *flags)
    assert status == 2 and message.format(out=tmp_path / "out") in log, log
    assert not (tmp_path / "out").exists()


def test_other_models_are_refused(train_prompt, masked, family_folders, tmp_path):
    import paddle
    from paddlenlp.transformers import BertConfig, BertForMaskedLM, BertTokenizer

    config = BertConfig(
        vocab_size=3000, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    paddle.seed(1)
    BertForMaskedLM(config).save_pretrained(str(tmp_path / "bert"))
    BertTokenizer(str(masked / "vocab.txt")).save_pretrained(str(tmp_path / "bert"))
    for folder, message in (
        (tmp_path / "bert", "of type bert; only ERNIE is supported"),
        (family_folders["ernie"], "it holds ErnieModel, which predicts no words"),
        (family_folders["ernie_m"], "it holds ErnieMModel, which predicts no words"),
    ):
        status, log = train_prompt("--do_train", "--model_name_or_path", folder)
        assert status == 2 and f"--model_name_or_path {folder}: {message}" in log


def test_a_word_without_tokens_is_refused(train_prompt, few):
    labels = lines_of(few / "label.txt")
    write_lines(few / "label.txt", [*labels[:-1], f"{labels[-1]}==\ufffd"])
    status, log = train_prompt("--do_train")
    assert status == 2 and f"label {labels[-1]!r}: the word '\ufffd' has no tokens; use another one" in log


def test_a_prompt_or_labels_other_than_the_models_are_refused(prompted, run, tmp_path):
    dataset, out = prompted["reviews"]
    shutil.copytree(dataset, tmp_path / "data")
    write_lines(tmp_path / "data" / "label.txt", lines_of(dataset / "label.txt")[::-1])
    where = ("--data_dir", tmp_path / "data", "--resume_from_checkpoint", out, "--output_dir", tmp_path / "new")
    status, log = run(train.main, *where, "--device", "cpu", "--do_eval", "--prompt", "别的")
    assert status == 2 and "--prompt differs from the trained model's" in log
    assert "does not list the trained model's labels in the same order" in log


def test_length_and_truncation_default_to_those_of_the_training(train_prompt, few, tmp_path):
    assert train_prompt("--do_train", "--truncate_mode", "head")[0] == 0
    where = ["--data_dir", str(few), "--output_dir", str(tmp_path / "out"), "--device", "cpu", "--do_eval"]
    for flags, wanted in (([], (40, "head")), (["--max_seq_length", "30", "--truncate_mode", "tail"], (30, "tail"))):
        args = train.parse_args([*where, *flags])
        prompt_data.read_all(args)
        assert (args.max_seq_length, args.truncate_mode) == wanted
