"""The library under the scripts. Nothing in it imports a script, and only `neural` imports Paddle.

- cli, files, rows: errors, the log, types of flags; files written whole or not at all; labels and labelled rows.
- decision, decision_engine, decision_flags, label_tree, probabilities: from probabilities to label sets.
- scores, thresholds, cross_fitting, splitting: how good label sets are, fitted thresholds, folds.
- tokenization, batching, bundle, reference, prediction, html_page: from texts to batches, what is served, reports.
- search: labels by nearest vectors. serving: a bundle opened and run. neural: models, training and export.

Imports point down: neural may import serving, serving may import search, and all may import this folder, which imports
none of them (tests/house.py).
"""

import os

# From 1.29 on, ONNX Runtime reports to Microsoft, on Linux too, unless this is set before it is imported
# (microsoft/onnxruntime#27379). What a user has set stays.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__version__ = "0.1.0"  # of every script (--version) and of the package
