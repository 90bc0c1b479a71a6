"""Small prompt models for the tests of few-shot/: a masked-language ERNIE with random weights, a few rows, a task."""

from conftest import lines_of, load_script, write_lines

from text_cls.rows import Labels

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
LABELS, WORDS = Labels(["b", "a", "c"]), [["地震"], ["火灾", "火"], ["雨"]]


def few_rows(source, target, train_rows=48, dev_rows=24, texts=20):
    """A data set of the first labelled rows of an example set. dev repeats train: a model with random weights learns
    nothing else from a few rows."""
    target.mkdir()
    rows = {name: [line for line in lines_of(source / f"{name}.txt") if "\t" in line] for name in ("train", "test")}
    for name, lines in {"train": rows["train"][:train_rows], "test": rows["test"][:dev_rows]}.items():
        write_lines(target / f"{name}.txt", lines)
    write_lines(target / "dev.txt", rows["train"][:dev_rows])
    write_lines(target / "label.txt", lines_of(source / "label.txt"))
    write_lines(target / "data.txt", [*lines_of(source / "data.txt")[:texts], *filter(str.strip, HARD)])
    return target


def make_task(folder, prompt, labels, words, **flags):
    """An untrained `PromptTask` with the model in a folder."""
    import paddle
    from paddlenlp.transformers import AutoTokenizer, ErnieForMaskedLM

    from prompting import Prompt, make_task, parse_prompt

    paddle.set_device("cpu")
    paddle.seed(5)
    plm, tokenizer = ErnieForMaskedLM.from_pretrained(str(folder)), AutoTokenizer.from_pretrained(str(folder))
    task = make_task(plm, tokenizer, Prompt(parse_prompt(prompt), labels, words), max_seq_length=48, **flags)
    task.model.eval()
    return task


def weights_of(folder):
    """The weights of a trained prompt model as {name: array}."""
    import paddle

    return {name: value.numpy() for name, value in paddle.load(str(folder / "model_state.pdparams")).items()}
