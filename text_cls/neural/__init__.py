"""Models, training and export: the only part of the library that imports Paddle."""
