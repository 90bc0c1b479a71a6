"""A long text of a page: some lines of it in a box, around the passage that decided a label."""

from text_cls.language import tr

BOX_STYLE = """
.passage { display: block; margin: 3px 0; padding: 0 0 0 9px; border-left: 3px solid var(--blue);
  background: var(--tint); print-color-adjust: exact; }
.box { max-height: 17em; margin: 4px 0; padding: 4px 10px; border: 1px solid var(--line);
  border-radius: 6px; overflow-y: auto; }
.box.all { max-height: none; }
button.open { padding: 1px 9px; font-size: .88em; }
@media (max-width: 620px) { .box { max-height: 60vh; } }
@media print { .box { max-height: none; } button.open { display: none; } }
"""


def box_words():
    """What text_box.js says, for `write_page`."""
    return {
        "characters": tr(
            "characters {from} to {to} of {all}", **{name: f"{{{name}}}" for name in ("from", "to", "all")}
        ),
        "text": tr("text"),
        "someLines": tr("Show some lines"),
        "allCharacters": tr("Show all {count} characters", count="{count}"),
    }
