"""Models, training and export: the only folder that imports Paddle."""
