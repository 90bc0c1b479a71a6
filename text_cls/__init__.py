"""The library under the scripts. Nothing in it imports a script, and only `neural` imports Paddle.

- cli, files, rows: errors, the log, flag types; files written whole or not at all; labels and labelled rows.
- decision, decision_flags, thresholds, cross_fitting, scores: from probabilities to label sets, and how good these are.
- batching, tokenization, bundle, prediction: what serving a model needs, besides `serving` and `search`.
- neural: models, training and export. serving: a bundle opened and run. search: labels by nearest vectors.
"""
