"""What the scripts share beside the package: which files an output must not replace, and what a data set looks like."""

import hashlib
import os

import numpy as np


def keep_inputs(folder, inputs, outputs, problems):
    """Adds a problem for each output, {flag: name} in the folder, that is an input (names) or another output, too."""
    read, written = {os.path.realpath(os.path.join(folder, name)) for name in inputs}, set()
    for flag, name in outputs.items():
        path = os.path.realpath(os.path.join(folder, name))
        if path in read:
            problems.add(f"{flag} {name}: this file is read, too, and would be lost; name another")
        if path in written:
            problems.add(f"{flag} {name}: another output has this name already; name another")
        written.add(path)


def describe(rows, num_labels):
    """What is worth knowing of one file before training, a line each: sizes, completed rows, repeated texts."""
    empty = int((np.diff(rows.offsets) == 0).sum())
    yield (
        f"{rows.path}: {len(rows)} rows, {len(rows.label_ids) / max(1, len(rows)):.2f} labels a row, "
        f"{empty} without a label, {rows.blank} blank lines skipped"
    )
    if rows.completed:
        yield f"{rows.path}: {rows.completed} rows name a child and not its parent; the parents were added"
    texts, label_sets = _text_keys(rows), _label_keys(rows)
    order = np.argsort(texts, kind="stable")
    again = texts[order][1:] == texts[order][:-1]
    other = again & (label_sets[order][1:] != label_sets[order][:-1])
    if again.any():
        yield f"{rows.path}: {again.sum()} rows repeat the text of another row; {_lines(rows, order, again)}"
    if other.any():
        yield (
            f"{rows.path}: {other.sum()} of them have other labels than that row; {_lines(rows, order, other)}. "
            "One of each pair is wrong"
        )


def describe_pair(train, dev, labels):
    """What train and dev show only together: shared texts, labels that cannot be learnt."""
    shared = np.isin(_text_keys(dev), _text_keys(train))
    if shared.any():
        yield (
            f"{dev.path}: {shared.sum()} rows have a text that is in {train.path} too (first: line "
            f"{dev.lines[shared.argmax()]}); their scores flatter the model"
        )
    unseen = [labels.names[i] for i in np.flatnonzero(train.support(len(labels)) == 0)]
    if unseen:
        more = f" and {len(unseen) - 10} more" if len(unseen) > 10 else ""
        yield f"{train.path}: {len(unseen)} labels have no row and cannot be learnt: {', '.join(unseen[:10])}{more}"


def _lines(rows, order, found):
    """The first pair of lines where `found` (bool [rows - 1]) says that order[i + 1] repeats order[i]."""
    first = int(found.argmax())
    return f"first: lines {rows.lines[order[first]]} and {rows.lines[order[first + 1]]}"


def _text_keys(rows):
    return _keys(text.encode("utf-8") for text in rows.texts)


def _label_keys(rows):
    return _keys(rows.labels_of(i).tobytes() for i in range(len(rows)))


def _keys(values):
    """64-bit hashes: 8 bytes a row in place of a set of texts. Two of a million texts collide with chance 3e-8."""
    return np.array([int.from_bytes(hashlib.blake2b(v, digest_size=8).digest(), "big") for v in values], np.uint64)
