"""A set of long documents whose labels show in one sentence each, so that what is cut off cannot be learnt."""

import random

from conftest import write_lines

FILL = "今天我们来看一下这个地方的情况，大家都说还可以。"
EVIDENCE = {"体育": "比赛进球了。", "财经": "股市大涨。", "教育": "学生高考。", "天气": "明天下雨。"}
FAR = 8  # sentences around those of the labels


def document(draw, sentences):
    """(text, label names)"""
    names = draw.sample(list(EVIDENCE), draw.randint(1, 2))
    parts = [FILL] * sentences
    for name in names:
        parts.insert(draw.randrange(len(parts) + 1), EVIDENCE[name])
    return "".join(parts), names


def write_documents(folder, train=160, dev=40):
    """Writes train.txt, dev.txt, label.txt, and data.txt with dev's texts. A third of the documents is short."""
    draw = random.Random(1)
    folder.mkdir()
    for file, count in (("train.txt", train), ("dev.txt", dev)):
        rows = [document(draw, draw.choice([0, 3, FAR])) for _ in range(count)]
        write_lines(folder / file, [f"{text}\t{','.join(names)}" for text, names in rows])
    write_lines(folder / "data.txt", [text for text, _ in rows])
    write_lines(folder / "label.txt", EVIDENCE)
    return folder
