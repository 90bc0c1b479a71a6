"""What several report pages share: scripts beside the modules, and lists that show some entries at a time."""

from pathlib import Path

from text_cls.language import tr

PAGER_STYLE = """
.pager { display: flex; gap: 8px; align-items: center; margin: 10px 0; }
button:disabled { opacity: .45; cursor: default; }
.controls label { display: inline-flex; gap: 6px; align-items: center; max-width: 100%; }
.controls select { min-width: 0; flex: 0 1 auto; }
@media print { .controls, .pager { display: none; } }
"""


def page_script(page):
    """JavaScript of a page: page_parts.js, text_box.js, and that of the module `page`, a path, beside it."""
    folder = Path(__file__).parent
    paths = (folder / "page_parts.js", folder / "text_box.js", Path(page).with_suffix(".js"))
    return "\n".join(path.read_text(encoding="utf-8") for path in paths)


def pager_words():
    """What `pager` of page_parts.js says, for `write_page`."""
    return {
        "back": tr("‹ Back"),
        "next": tr("Next ›"),
        "place": tr("{from}–{to} of {all}", **{name: f"{{{name}}}" for name in ("from", "to", "all")}),
        "none": tr("none"),
    }
