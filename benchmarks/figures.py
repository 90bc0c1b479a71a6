"""Where the figures come from: of each row of README's Figures, and of each section of RESULTS.md, the commands.

    python benchmarks/figures.py        # or: make figures

Exit status 1 if a row or a table has no command, or a command names a script that is not there.
"""

import re
import sys
from pathlib import Path

sys.path.insert(0, str(next(p for p in Path(__file__).resolve().parents if Path(p, "text_cls").is_dir())))

from project import ROOT

COMMAND = re.compile(r"^    ((?:\w+=\S+ )*(?:\S*python|make) .*)$", re.M)
TABLE = re.compile(r"^\| .*\|$", re.M)


def sections(document):
    """{heading: text} of the second-level sections of a Markdown document."""
    parts = re.split(r"^## (.+)$", document, flags=re.M)
    return dict(zip(parts[1::2], parts[2::2]))


def anchor(heading):
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def rows_of(section):
    """(what, anchor in RESULTS.md or None) of each row of README's table."""
    for line in TABLE.findall(section)[2:]:
        link = re.search(r"RESULTS\.md#([\w-]+)", line)
        yield line.split("|")[1].strip(), link and link[1]


def missing_scripts(commands):
    """The scripts that commands name and that are not there."""
    named = [word for command in commands for word in re.findall(r"[\w/-]+\.py\b", command)]
    return sorted({name for name in named if not Path(ROOT, name).is_file()})


def main():
    found = sections(Path(ROOT, "benchmarks", "RESULTS.md").read_text(encoding="utf-8"))
    commands = {anchor(heading): COMMAND.findall(text) for heading, text in found.items()}
    problems = [heading for heading, text in found.items() if TABLE.search(text) and not commands[anchor(heading)]]
    problems = [f"RESULTS.md, {heading}: a table without a command" for heading in problems]
    print("README.md")
    for what, target in rows_of(sections(Path(ROOT, "README.md").read_text(encoding="utf-8"))["Figures"]):
        print(f"  {what}\n    {target}")
        if not commands.get(target):
            problems.append(f"README.md, {what}: no section of RESULTS.md with a command")
    for heading in found:
        print(f"\n{heading}", *(f"  {command}" for command in commands[anchor(heading)]), sep="\n")
    problems += [f"{name} is not there" for name in missing_scripts(sum(commands.values(), []))]
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
