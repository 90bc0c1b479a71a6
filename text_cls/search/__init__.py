"""Indexes of labelled vectors, and the labels of the entries nearest to a text.

- index: the interface of an index. embedded_index, milvus_index: its two implementations. open_index: a bundle's index.
- neighbours: the rows nearest to a vector. label_scores: from the nearest entries to a score for each label.
"""
