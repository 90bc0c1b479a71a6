"""Nearest vectors, the indexes that hold them, and the labels they stand for."""
