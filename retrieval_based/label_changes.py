"""What index.py is given to add: names and texts, checked, and the label set that they make."""

from text_cls.label_tree import SEPARATOR
from text_cls.rows import Labels, label_problem, read_lines, read_rows, tab_message
from text_cls.search.label_scores import label_entries, label_text, row_entries
from text_cls.search.milvus_index import LONGEST_LABEL


def check_label(name, where, problems):
    """Adds a problem where a label cannot stand in label.txt, or is longer than any index takes."""
    try:
        size = len(name.encode("utf-8"))
    except UnicodeEncodeError:
        problems.add(f"{where}: label {name!r} is not UTF-8; set LANG=C.UTF-8, or use --corpus_file")
        return
    if size > LONGEST_LABEL:
        problems.add(f"{where}: label {name[:20]!r}... has {size} bytes, more than {LONGEST_LABEL}; rename the label")
    elif not name or "\n" in name or "\r" in name:
        problems.add(f"{where}: label {name!r} is empty or has a line break; a label is one line")
    elif problem := label_problem(name):
        problems.add(f"{where}: label {name!r} {problem}")


def with_new(labels, names):
    """`Labels` with these names and all above them, the new ones behind the others."""
    new = {}
    for name in names:
        pieces = name.split(SEPARATOR)
        paths = (SEPARATOR.join(pieces[:end]) for end in range(1, len(pieces) + 1))
        new |= {path: None for path in paths if path not in labels.index}
    return Labels([*labels.names, *new])


def read_new(args, predictor, problems):
    """What `add` is given: `Labels` with the new ones, texts, and a tuple of label names for each text.

    Raises:
        UserError: as `Problems.stop_if_any`, or a file cannot be read.
    """
    of_rows = predictor.bundle.manifest["corpus"] == "rows"
    if (args.label is None) == (args.corpus_file is None):
        problems.add("give one of --label and --corpus_file")
    if args.corpus_file and args.text:
        problems.add("--text goes with --label; rows of a file have their texts")
    problems.stop_if_any()
    if args.label is not None:
        return _of_label(args, predictor, of_rows, problems)
    return (_of_rows if of_rows else _of_label_file)(args.corpus_file, predictor, problems)


def _of_label(args, predictor, of_rows, problems):
    name, texts = args.label.strip(), [text.strip() for text in args.text]
    check_label(name, "--label", problems)
    if not all(texts):
        problems.add("--text: an empty text is like no other; leave it out")
    if of_rows and not texts:
        problems.add("this index is of labelled rows; give --text with texts that have the label")
    problems.stop_if_any()
    labels = with_new(predictor.labels, [name])
    if of_rows:  # an entry has a row's labels, and a row has all above them
        names = tuple(path for path in labels.names if f"{name}{SEPARATOR}".startswith(f"{path}{SEPARATOR}"))
        return labels, texts, [names] * len(texts)
    if not predictor.index.count(name):
        texts.insert(0, label_text(name))
    elif not texts and name in predictor.labels.index:  # else a run that was cut off has left its entry in a Milvus
        problems.add(f"--label {name}: it is there already; to add texts that have it, give --text")
    return labels, texts, [(name,)] * len(texts)


def _of_rows(path, predictor, problems):
    names = {}
    for number, line in read_lines(path):
        if line.count("\t") > 1:
            problems.add(tab_message, path, number, line)
        for name in filter(None, map(str.strip, line.partition("\t")[2].split(","))):
            if name not in names:
                check_label(name, f"{path}:{number}", problems)
                names[name] = None
    problems.stop_if_any()
    labels = with_new(predictor.labels, names)
    rows = read_rows(path, labels, problems)
    texts, names = row_entries(rows, labels)
    if len(rows) and not texts:
        problems.add(f"--corpus_file {path}: no row has a label")
    return labels, texts, names


def _of_label_file(path, predictor, problems):
    names = {}
    for number, line in read_lines(path):
        if line.strip():
            check_label(line.strip(), f"{path}:{number}", problems)
            names[line.strip()] = None
    if not names:
        problems.add(f"{path}: no labels; write one a line")
    problems.stop_if_any()
    labels, there = with_new(predictor.labels, names), predictor.index.labels()
    return labels, *label_entries(labels, [name for name in names if name not in there])
