"""Small prompt models for the tests of few-shot/: a masked-language ERNIE of random weights, a few rows, a task."""

from types import SimpleNamespace

from conftest import lines_of, load_script, write_lines

train = load_script("few-shot/train.py")
infer = load_script("few-shot/infer.py")
PROMPTS = {
    "words": "这句话描述的事件是",
    "default": None,
    "soft": "{'soft': '这句话'}{'text': 'text_a'}说的是{'mask'}。",
    "lstm": "{'soft': None, 'length': 3, 'encoder': 'lstm', 'hidden_size': 16}{'text': 'text_a'}{'mask'}{'soft'}",
    "mlp and types": "{'text': 'text_a', 'token_type': 1}{'sep'}{'hard': '主题：', 'token_type': 0}{'mask'}"
    "{'soft': '词', 'encoder': 'mlp'}{'soft': '词', 'soft_id': 7, 'token_type': 1}{'soft_id': 7}",
}
HARD = ["", " ", "[MASK]", "a[MASK]b [SEP]", "😀 Café", "好" * 2000, "台风登陆，学校停课", "[PAD][CLS][UNK]", "x" * 300]


def few_rows(source, target, train_rows=48, dev_rows=24, texts=20):
    """A data set of the first labelled rows of an example set. dev repeats train: what is learnt of a few rows with
    random weights is these rows."""
    target.mkdir()
    rows = {name: [line for line in lines_of(source / f"{name}.txt") if "\t" in line] for name in ("train", "test")}
    for name, lines in {"train": rows["train"][:train_rows], "test": rows["test"][:dev_rows]}.items():
        write_lines(target / f"{name}.txt", lines)
    write_lines(target / "dev.txt", rows["train"][:dev_rows])
    write_lines(target / "label.txt", lines_of(source / "label.txt"))
    write_lines(target / "data.txt", [*lines_of(source / "data.txt")[:texts], *filter(str.strip, HARD)])
    return target


def make_task(folder, prompt, labels, words, **flags):
    """A `PromptTask` on the model in a folder, untrained."""
    import paddle
    from paddlenlp.transformers import AutoTokenizer, ErnieForMaskedLM

    from prompting import make_task, parse_prompt

    paddle.set_device("cpu")
    paddle.seed(5)
    args = {"max_seq_length": 48, "truncate_mode": "tail", "freeze_plm": False, "freeze_dropout": False, **flags}
    plm, tokenizer = ErnieForMaskedLM.from_pretrained(str(folder)), AutoTokenizer.from_pretrained(str(folder))
    task = make_task(plm, tokenizer, parse_prompt(prompt), labels, words, SimpleNamespace(**args))
    task.model.eval()
    return task
