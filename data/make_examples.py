"""Generate the example training rows from the templates in data/templates, always the same.

    python data/make_examples.py                    # overwrites data/train.txt and data/multi_label/train.txt
    python data/make_examples.py --output_dir /tmp  # writes elsewhere

Template files: `[slot NAME]` has values separated by ` | `; `[label A + B]` has one template per line; `[label 无]` has
texts without a label. In a template, `{NAME}` stands for a value of the slot and `(a|b)` for one of the alternatives.
The rows of dev.txt and test.txt are written by hand and do not come from these templates.
"""

import argparse
import random
import re
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(next(p for p in Path(__file__).resolve().parents if Path(p, "text_cls").is_dir())))

from text_cls.argument_parser import ArgumentParser
from text_cls.cli import command
from text_cls.files import atomic_write
from text_cls.label_tree import paths_to

ROWS, SEED = 2000, 3
NO_LABEL = "无"


def read_templates(path):
    """({slot: values}, {tuple of labels: templates}) of a template file."""
    slots, templates, section, kind = {}, {}, None, None
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        if header := re.fullmatch(r"\[(slot|label) (.+)\]", line):
            kind, name = header.groups()
            if kind == "slot":
                section = slots.setdefault(name, [])
            else:
                section = templates.setdefault(tuple(part.strip() for part in name.split(" + ")), [])
        else:
            section.extend(line.split(" | ") if kind == "slot" else [line])
    return slots, templates


def fill(template, slots, rng):
    """One text from a template: picks an alternative of each (a|b), then a value of each {slot}."""
    text = re.sub(r"\(([^()]*\|[^()]*)\)", lambda match: rng.choice(match[1].split("|")), template)
    return re.sub(r"\{([^{}]+)\}", lambda match: rng.choice(slots[match[1]]).strip(), text)


def with_parents(paths):
    """Distinct label names of leaf paths and their ancestors, ancestors first."""
    return list(dict.fromkeys(each for path in paths for each in paths_to(path)))


def hierarchical_row(slots, templates, rng):
    """A news text. 2 in 100 report no event, 14 report two. Common leaves have about 3 times the rows of rare ones."""
    draw = rng.random()
    single = [labels for labels in templates if len(labels) == 1 and labels != (NO_LABEL,)]
    if draw < 0.02:
        labels = (NO_LABEL,)
    elif draw < 0.16:
        labels = rng.choice([labels for labels in templates if len(labels) > 1])
    else:
        labels = rng.choices(single, weights=[1 / (1 + i % 11 / 5) for i in range(len(single))])[0]
    text = fill(rng.choice(templates[labels]), slots, rng)
    return text, [] if labels == (NO_LABEL,) else with_parents(labels)


def multi_label_row(slots, templates, rng):
    """A hotel review: clauses with different labels. 1 row in 20 has no label, 2 in 3 have one or two."""
    count = rng.choices(range(6), weights=[5, 33, 35, 17, 8, 2])[0]
    if count == 0:
        return fill(rng.choice(templates[(NO_LABEL,)]), slots, rng), []
    names = [labels[0] for labels in templates if len(labels) == 1 and labels != (NO_LABEL,)]
    pairs = [labels for labels in templates if len(labels) == 2]
    sections = [rng.choice(pairs)] if count >= 2 and rng.random() < 0.3 else []
    used = [name for labels in sections for name in labels]
    for name in rng.sample([name for name in names if name not in used], count - len(used)):
        sections.append((name,))
    rng.shuffle(sections)
    text = ""
    for i, labels in enumerate(sections):
        text += (rng.choice("，，。；！") if i else "") + fill(rng.choice(templates[labels]), slots, rng)
    chosen = {name for labels in sections for name in labels}
    return text + rng.choice(["", "。", "！", "……"]), [name for name in names if name in chosen]


def make_rows(template_file, make_row, num_rows=ROWS, seed=SEED):
    """Distinct rows `text<TAB>label,label` of 8 to 120 characters."""
    slots, templates = read_templates(template_file)
    rng, rows = random.Random(seed), {}
    while len(rows) < num_rows:
        text, labels = make_row(slots, templates, rng)
        if 8 <= len(text) <= 120:
            rows.setdefault(text, labels)
    return ["\t".join([text, *([",".join(labels)] if labels else [])]) for text, labels in rows.items()]


def parse_args(argv=None):
    parser = ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--output_dir", default=str(HERE), help="output folder (data/)")
    return parser.parse_args(argv)


@command
def main(argv=None):
    args = parse_args(argv)
    for name, make_row, target in (
        ("hierarchical", hierarchical_row, "train.txt"),
        ("multi_label", multi_label_row, "multi_label/train.txt"),
    ):
        path = Path(args.output_dir, target)
        rows = make_rows(HERE / "templates" / f"{name}.txt", make_row)
        with atomic_write(path) as file:
            file.writelines(f"{row}\n" for row in rows)
        print(f"{path}: {len(rows)} rows")


if __name__ == "__main__":
    sys.exit(main())
