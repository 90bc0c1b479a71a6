"""What the labelling tools make of an imported file, as their exports have it: for tests without the tools."""


def doccano_export(rows, relabel=lambda text, names: names):
    """Rows of doccano's JSONL. relabel: takes a text and its labels, returns those that the annotator leaves."""
    for number, row in enumerate(rows, 1):
        meta = {name: value for name, value in row.items() if name not in ("text", "label")}
        yield {"id": number, "text": row["text"], "label": relabel(row["text"], row["label"]), **meta, "Comments": []}


def studio_export(tasks, relabel=lambda text, result: result):
    """Tasks of Label Studio's JSON: the annotator submits the prediction, as `relabel` changes its result."""
    for number, task in enumerate(tasks, 1):
        result = relabel(task["data"]["text"], task["predictions"][0]["result"])
        annotation = {"result": result, "was_cancelled": False, "ground_truth": False, "updated_at": "2026-01-01"}
        yield {"id": number, **task, "annotations": [annotation]}
