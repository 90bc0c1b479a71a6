"""The model card, README.md of a checkpoint, a bundle and a Hugging Face folder: what the model is and how good.

It begins with metadata that Hugging Face's hub reads (https://huggingface.co/docs/hub/model-cards). What is not known,
such as the licence, is left out there, and "unknown" in the text. It has no date, so that exporting twice gives the
same bytes. The Chinese summary is in the same file, because the hub and file browsers show only README.md.
"""

import json
import re

from text_cls.blend import Blend, described
from text_cls.card_facts import FEW, SHOWN, in_words
from text_cls.cascade import Cascade
from text_cls.decision import Decision
from text_cls.label_tree import split_path
from text_cls.language import ENGLISH
from text_cls.linear_classifier import LINEAR
from text_cls.long_texts import CUT, HEAD_TAIL, WINDOWS, LongTexts
from text_cls.rows import Labels

CARD = "README.md"
MODEL, ENCODER = "model", "encoder"  # what an artefact computes: logits of labels, or vectors
SCORES = {"micro_f1": "micro F1", "macro_f1": "macro F1", "accuracy": "accuracy"}
TUNED = "tuned_"  # prefix of the scores of dev rows that were decided by thresholds fitted to other dev rows
WRITING = {  # first words of Unicode's names of letters: how the card calls them, in English and Chinese
    "CJK": ("Chinese characters", "汉字"),
    "LATIN": ("Latin letters", "拉丁字母"),
    "HIRAGANA": ("Hiragana", "平假名"),
    "KATAKANA": ("Katakana", "片假名"),
    "HANGUL": ("Hangul", "谚文"),
    "CYRILLIC": ("Cyrillic letters", "西里尔字母"),
    "ARABIC": ("Arabic letters", "阿拉伯字母"),
}
# Languages that their writing gives away. Latin or Cyrillic letters may be of any of many.
LANGUAGES = {"HIRAGANA": "ja", "HANGUL": "ko", "THAI": "th", "GREEK": "el", "HEBREW": "he", "CJK": "zh"}
CHINESE_INPUT = {
    CUT: "最多读取 {length} 个 token，超出部分被截断",
    HEAD_TAIL: "最多读取 {length} 个 token，超长的文本只读开头和结尾",
    WINDOWS: "分窗口读取全文，每个窗口最多 {length} 个 token，最多 {most} 个窗口",
}
OTHER_FILES = {  # files that are no rows: what they are
    "label.txt": "the labels",
    **dict.fromkeys(("manifest.json", "model.safetensors", "model_state.pdparams"), "the teacher"),
}
UNKNOWN, UNKNOWN_CUT = "unknown", "how many rows that cuts is unknown"


def model_card(
    facts: dict,
    labels: Labels,
    decision: Decision,
    max_seq_length: int,
    how: LongTexts,
    header: dict[str, str | list[str]],
    usage: str,
    computes: str = MODEL,
    notes: list[str] = (),
    cascade: Cascade | None = None,
    blend: Blend | None = None,
) -> str:
    """A card in Markdown.

    Args:
        facts: of `card_facts.facts_of`; whatever is missing is unknown.
        how: how longer texts are read.
        header: metadata of this kind of artefact, in the words of Hugging Face's hub.
        usage: how to use the model, in Markdown.
        computes: MODEL, ENCODER or LINEAR.
        notes: further limits, as sentences.
        cascade: if a linear model answers the rows that it is sure of. blend: if it takes part in the probabilities.
    """
    title = f"{'Hierarchical' if labels.hierarchical else 'Multi-label'} text classifier"
    lines = [
        "---",
        *_yaml(_metadata(facts, labels, header, title)),
        "---",
        "",
        f"# {title}",
        "",
        *_summary(labels, decision, max_seq_length, how, computes),
        *_two_models(cascade, blend),
        "",
        "## Data",
        "",
        *_data(facts, computes),
        "",
        "## Training",
        "",
        *_training(facts, computes),
        "",
        "## Scores",
        "",
        *_scores(facts, decision, computes),
        "",
        "## Limits",
        "",
        *(f"- {limit}" for limit in (*_limits(facts, decision, len(labels), max_seq_length, how, computes), *notes)),
        "",
        "## Use",
        "",
        usage,
        "",
        "## 中文摘要",
        "",
        *_chinese(facts, labels, max_seq_length, how, computes),
        *_chinese_two_models(cascade, blend),
    ]
    return "\n".join(lines) + "\n"


# ------------------------------------------------------------------------------------------------------------ metadata


def _metadata(facts, labels, header, title):
    """The fields of the header, as of https://github.com/huggingface/hub-docs/blob/main/modelcard.md."""
    tags = [*header.get("tags", ()), "multi-label-classification"]
    tags += ["hierarchical-classification"] if labels.hierarchical else []
    found = {"language": _languages(facts), "pipeline_tag": "text-classification", **header, "tags": tags}
    base = facts.get("base_model", "")
    if re.fullmatch(r"[\w.-]+/[\w.-]+", base):  # a name on the hub; any other would be a dead link there
        found["base_model"] = base
    results = [_result(facts, split, scores, title) for split, scores in facts.get("scores", {}).items()]
    found |= {"metrics": ["f1", "accuracy"], "model-index": [{"name": title, "results": results}]} if results else {}
    return {name: value for name, value in found.items() if value}


def _languages(facts):
    """Codes of the languages that the training texts' writing shows."""
    writing = facts.get("writing", {})
    found = [LANGUAGES[name] for name in writing if name in LANGUAGES and writing[name] >= 0.1]
    return [code for code in found if code != "zh" or "ja" not in found]


def _result(facts, split, scores, title):
    """One result of the metadata's model-index."""
    file = facts.get("data", {}).get(split, {}).get("file", split)
    return {
        "task": {"type": "text-classification", "name": title},
        "dataset": {"type": UNKNOWN, "name": file, "split": {"dev": "validation"}.get(split, split)},
        "metrics": [
            {"type": "accuracy" if name.endswith("accuracy") else "f1", "name": _title(name), "value": values[0]}
            for name, values in scores.items()
            if name.removeprefix(TUNED) in SCORES
        ],
    }


def _title(name):
    """How the card calls a score."""
    known = SCORES.get(name.removeprefix(TUNED), name.replace("_", " "))
    return f"{known}, fitted thresholds" if name.startswith(TUNED) else known


def _yaml(value, indent=""):
    """Lines of a mapping or a list in YAML; scripts that write a bundle need no YAML library."""
    pairs = (
        [(f"{name}:", item) for name, item in value.items()] if isinstance(value, dict) else [("-", i) for i in value]
    )
    for head, item in pairs:
        if not isinstance(item, (dict, list)):
            yield f"{indent}{head} {_scalar(item)}"
        elif head == "-":  # the first line of what is in a list stands beside the dash
            first, *others = _yaml(item, f"{indent}  ")
            yield f"{indent}- {first.lstrip()}"
            yield from others
        else:
            yield f"{indent}{head}"
            yield from _yaml(item, f"{indent}  " if isinstance(item, dict) else indent)


def _scalar(value):
    """A text or a number. Words that YAML takes for nothing else stay as they are; JSON's quotes are YAML's, too."""
    if not isinstance(value, str):
        return json.dumps(value)
    plain = re.fullmatch("[a-zA-Z][a-zA-Z0-9_.-]*(?: [a-zA-Z0-9_.-]+)*", value)
    if plain and value.lower() not in ("y", "n", "yes", "no", "on", "off", "true", "false", "null"):
        return value
    escaped = "[^ -~\u00a0-\u2027\u202a-\ud7ff\U00010000-\U0010ffff]"  # what YAML does not take as it is
    return re.sub(escaped, lambda match: json.dumps(match[0])[1:-1], json.dumps(value, ensure_ascii=False))


# ---------------------------------------------------------------------------------------------------------------- text


def _summary(labels, decision, max_seq_length, how, computes):
    levels = max(len(split_path(name)) for name in labels.names)
    what = f"{len(labels)} labels in {levels} levels" if labels.hierarchical else f"{len(labels)} labels"
    shown = ", ".join(_code(name[:40]) for name in labels.names[:10]) + (", ..." if len(labels) > 10 else "")
    below = " `a##b` is the label b below a." if labels.hierarchical else ""
    yield f"It assigns labels to texts. It knows {what}: {shown} (all are in `label.txt`).{below}"
    yield "A text may get several labels, or none."
    yield ""
    yield f"- Input: {_input(max_seq_length, how, computes)}."
    if computes == ENCODER:
        yield (
            "- Output: a vector of length 1. A text gets the labels whose own texts have the nearest vectors, by "
            "cosine. So labels can be added without training."
        )
    else:
        yield (
            "- Output: one logit per label, in the order of `label.txt`. The sigmoid of it is the label's probability."
        )
    yield f"- Decision, in `decision.json`: {in_words(decision)}."


def _input(max_seq_length, how, computes):
    if how.mode == WINDOWS:
        return (
            f"a text, read in windows of at most {max_seq_length} tokens, whose logits are pooled ({how.pooling}); at "
            f"most {how.max_windows} windows"
        )
    rest = "what follows them is cut off" if how.mode == CUT else "of a longer one, its beginning and its end"
    return f"a text of at most {max_seq_length} {_unit(computes)}; {rest}"


def _two_models(cascade, blend):
    """Lines about the linear model beside a neural one."""
    for sentence in described(cascade, blend, ENGLISH):
        yield f"- {sentence}."
    if cascade or blend:
        yield (
            "- The linear model is TF-IDF of 1 to 3 characters and one linear SVM per label; it reads 20,000 "
            "characters. Its logits are moved so that the thresholds of `decision.json` mean for it what its own did. "
            "What follows is about the neural model, except for the scores, which are those of both."
        )


def _chinese_two_models(cascade, blend):
    form = "micro F1 {:+.2f}、macro F1 {:+.2f} 个百分点（在未参与拟合的样本上）"
    if blend:
        points = form.format(blend.micro_f1_gained, blend.macro_f1_gained)
        yield ""
        yield f"概率是线性模型（权重 {blend.weight:.2f}）与神经网络的加权平均，与单用神经网络相比：{points}。"
    if cascade:
        points = form.format(0 - cascade.micro_f1_lost, 0 - cascade.macro_f1_lost)
        other = "全部由两者加权平均" if blend else "全部由神经网络"
        yield ""
        yield f"线性模型单独回答它有把握的文本（约 {cascade.share:.0%}），与{other}回答相比：{points}。"


def _unit(computes):
    """What a model reads of a text."""
    return "characters" if computes == LINEAR else "tokens"


def _code(text):
    """A text as code in Markdown."""
    return f"`` {text} ``" if "`" in text else f"`{text}`"


def _data(facts, computes):
    data, sums = facts.get("data", {}), dict(facts.get("files", {}))
    if not data and not sums:
        yield f"{UNKNOWN.capitalize()}."
        return
    yield f"| file | used for | rows | {_unit(computes)} per row | rows cut | SHA-256 |"
    yield f"|{' --- |' * 6}"
    purposes = {"train": "training", "dev": "choosing the checkpoint", "test": "scoring it once, at the end"}
    purposes["unlabelled"] = "training, by the teacher's probabilities"
    purposes |= {"dev": "scoring it"} if computes == LINEAR else {}
    for split, found in data.items():
        digest = _code(sums.pop(found["file"], UNKNOWN))
        cells = _file(found["file"]), purposes.get(split, split), f"{found['rows']:,}"
        tokens, cut = (found.get(name) for name in ("tokens", "cut"))
        more = f"{tokens:.1f}" if tokens is not None else UNKNOWN, f"{cut:.1%}" if cut is not None else UNKNOWN
        yield f"| {' | '.join((*cells, *more, digest))} |"
    for name, digest in sums.items():
        purpose = OTHER_FILES.get(name, "" if data else UNKNOWN)
        yield f"| {_file(name)} | {purpose} | | | | {_code(digest)} |"


def _file(name):
    """A file's name for a table, where a bar would end the cell."""
    return _code(name.replace("|", "\\|"))


def _training(facts, computes):
    base, changed, seconds = (facts.get(name) for name in ("base_model", "changed", "seconds"))
    script = facts.get("script", "train.py")
    if computes == LINEAR:
        yield "- Base model: none (`--model_name linear`). TF-IDF of 1 to 3 characters, and one linear SVM per label."
    else:
        yield f"- Base model: {_code(base) if base else UNKNOWN}."
    yield f"- Trained by: {_arguments(script, changed)}"
    if teacher := facts.get("teacher"):
        yield (
            f"- Teacher: {_code(teacher['name'])}. Its probabilities of {teacher['rows']:,} rows with labels and of "
            f"{teacher['texts']:,} texts without are targets as well, with the weight {teacher['weight']:g}."
        )
    yield f"- Time, with evaluation: {_duration(seconds) if seconds is not None else UNKNOWN}."
    packages = {**facts.get("packages", {}), **({"Python": facts["python"]} if facts.get("python") else {})}
    yield f"- Versions: {', '.join(f'{name} {version}' for name, version in packages.items()) or UNKNOWN}."
    commit = facts.get("commit") or ""
    changes = " with changes that were not committed" if commit.endswith("+") else ""
    yield f"- Commit of the code: {_code(commit.rstrip('+')) if commit else UNKNOWN}{changes}."
    if pruned := facts.get("pruned"):
        yield (
            f"- Then pruned to {pruned['width']:.2g} of its heads and neurons, and trained to answer like the whole "
            f"model: {_arguments('prune.py', pruned['changed'])} The scores are those of the pruned model."
        )


def _arguments(script, changed):
    """A script and its arguments, {name: value} of those that differ from the defaults; None if they are unknown."""
    if changed is None:
        return f"`{script}`; its arguments are unknown."
    if not changed:
        return f"`{script}` with its defaults."
    words = " ".join(_typed(name, value) for name, value in changed.items())
    return f"`{script}` with {_code(words)}; its other arguments had their defaults."


def _typed(name, value):
    """An argument as it is typed."""
    if isinstance(value, bool):
        return f"--{'' if value else 'no-'}{name}"
    values = value if isinstance(value, list) else [value]
    return " ".join((f"--{name}", *(f"{item:g}" if isinstance(item, float) else str(item) for item in values)))


def _duration(seconds):
    hours, minutes = seconds / 3600, seconds / 60
    return (
        f"{hours:.1f} hours" if hours >= 1 else f"{minutes:.0f} minutes" if minutes >= 2 else f"{seconds:.0f} seconds"
    )


def _scores(facts, decision, computes):
    """A table with a line for each split that was scored."""
    scores, data = facts.get("scores", {}), facts.get("data", {})
    names = list(dict.fromkeys(name for found in scores.values() for name in found))
    if not names:
        yield "None are recorded."
        return
    yield f"| rows | {' | '.join(map(_title, names))} |"
    yield f"|{' --- |' * (1 + len(names))}"
    for split, found in scores.items():
        part = data.get(split, {})
        where = f"{_file(part['file'])}, {part['rows']:,} rows" if part else f"{split} rows"
        yield f"| {where} | {' | '.join(_score(found.get(name)) for name in names)} |"
    yield ""
    text = "In percent."
    if any(len(values) > 1 for found in scores.values() for values in found.values()):
        text += (
            " In brackets, the 95 percent interval of a bootstrap over the rows: how far the score may differ on other "
            "rows like these. It does not cover that another training would give another model."
        )
    if "dev" in scores and computes != LINEAR:
        text += " The dev rows chose this checkpoint, so expect a little less on new texts."
    yield text
    decided = facts.get("decided")
    if decided and decided != in_words(decision):
        yield ""
        yield (
            f"The decision has changed since. These are the scores with the one before: {decided}. To score the "
            "present one: `analysis/evaluate.py`."
        )


def _score(values, to=" to "):
    if values is None:
        return ""
    value, *interval = (f"{100 * value:.2f}" for value in values)
    return f"{value} ({to.join(interval)})" if interval else value


def _limits(facts, decision, count, max_seq_length, how, computes):
    yield "It knows these labels only, and was trained on texts of one kind. On other texts, measure first."
    yield _few(facts.get("few"), count)
    yield f"Writing of the training texts: {_writing(facts, 0)}. On texts in another language, measure first."
    cut = {_file(part["file"]): part["cut"] for part in facts.get("data", {}).values() if "cut" in part}
    shares = ", ".join(f"{share:.1%} of the rows of {name}" for name, share in cut.items())
    share = f"that cuts {shares}" if any(cut.values()) else "none of its rows is longer" if cut else UNKNOWN_CUT
    windows = f"{how.max_windows} windows of " if how.mode == WINDOWS else ""
    read = f"{windows}{max_seq_length} {_unit(computes)}"
    yield f"Length: it reads {read} of a text and does not see the rest; {share}."
    if computes == MODEL and decision.temperature == 1:
        yield "Probabilities are not calibrated: 0.8 does not mean that 8 of 10 such labels are right."
    both = "licences of the base model and of the training texts apply"
    licences = "licence of the training texts applies" if computes == LINEAR else both
    yield f"Licence: none is recorded. The {licences}."


def _few(few, count):
    """What to say about labels with few training rows."""
    if few is None:
        return "Rows per label: unknown."
    if not few["below"]:
        return f"Each label has {FEW} training rows or more."
    names = ", ".join(f"{_code(name)} ({rows})" for name, rows in few["fewest"].items())
    rest = f" and {few['below'] - SHOWN} more" if few["below"] > SHOWN else ""
    without = f", {few['none']} of them none" if few["none"] else ""
    return (
        f"{few['below']} of {count} labels have fewer than {FEW} training rows{without}. Expect little of them: "
        f"{names}{rest}."
    )


def _writing(facts, language):
    """The writing systems in English (0) or Chinese (1)."""
    shares = facts.get("writing")
    if not shares:
        return (UNKNOWN, "未知")[language]
    names = {name: WRITING.get(name, (name.capitalize(), name.capitalize()))[language] for name in shares}
    return (", ", "、")[language].join(f"{names[name]} {share:.0%}" for name, share in shares.items())


def _chinese(facts, labels, max_seq_length, how, computes):
    """A short summary in Chinese."""
    kind = "层次文本分类" if labels.hierarchical else "多标签文本分类"
    rows = facts.get("data", {}).get("train", {}).get("rows")
    read = CHINESE_INPUT[how.mode].format(length=max_seq_length, most=how.max_windows)
    read = read.replace("个 token", "个字符") if computes == LINEAR else read
    yield (
        f"{kind}模型，共 {len(labels)} 个标签（见 `label.txt`），一条文本可有多个标签，也可没有标签。"
        f"训练样本：{f'{rows:,} 条' if rows is not None else '未知'}；"
        f"文字：{_writing(facts, 1)}；{read}。"
    )
    for split, found in facts.get("scores", {}).items():
        shown = "，".join(f"{_title(name)} {_score(values, '～')}" for name, values in found.items())
        yield ""
        yield f"{split} 样本上的得分（百分数，括号内为 95% 区间）：{shown}。"
    yield ""
    few = facts.get("few", {}).get("below")
    yield (f"{few} 个标签的训练样本少于 {FEW} 条，其预测不可靠。" if few else "") + "未记录许可证。"
