"""What `run.json` of a checkpoint may contain: `RUN`, a check for `schema.read_json`.

Older versions wrote fewer fields, so only what a script cannot do without is required.
"""

from text_cls.schema import (
    ANY,
    FLAG,
    NUMBER,
    OBJECT,
    TEXT,
    by_kind,
    fields,
    list_of,
    map_of,
    one_of,
    or_null,
    value_of,
    whole,
)

LONGEST = 1_000_000  # tokens per text that any model could take
REMEDY = "train again, or restore the folder from a backup"

_MAX_SEQ_LENGTH = {"max_seq_length": whole(1, LONGEST)}
_FILES = value_of(
    "a list of file names, or an object with a SHA-256 for each",
    lambda files: isinstance(files, (list, dict)) and all(isinstance(name, str) for name in files),
)
_PROGRESS = {
    "epoch": whole(0),
    "batch": whole(0),
    "step": whole(0),
    "best_score": or_null(NUMBER),
    "epochs_without_better": whole(0),
    "history": list_of(OBJECT),
    "finished": FLAG,
}
_ANY_RUN = {
    "arguments": fields({}, _MAX_SEQ_LENGTH),
    "data": map_of(TEXT),
    "processes": whole(1),
    "progress": fields({}, _PROGRESS, others=False),
    "files": _FILES,
}
RUN = by_kind(
    {
        "classification": fields({}, _ANY_RUN),
        "retrieval": fields({"corpus": or_null(list_of(TEXT)), "arguments": fields(_MAX_SEQ_LENGTH)}, _ANY_RUN),
        "prompt": fields(
            {"arguments": fields(_MAX_SEQ_LENGTH, {"truncate_mode": one_of("tail", "head")})},
            {**_ANY_RUN, "prompt": list_of(map_of(ANY), least=1), "label_words": list_of(list_of(TEXT, least=1))},
        ),
    },
    default="classification",
)
