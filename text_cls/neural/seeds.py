"""`train.py --seeds N`: the same run with N seeds, one after another. The best on dev is kept.

How far the scores of fine-tuning differ by the seed alone: Dodge et al. 2020, arXiv:2002.06305.
"""

import os
import shutil
import statistics
from collections.abc import Callable

from text_cls.cli import UserError, is_main_process, logger
from text_cls.files import atomic_folder, remove_folder, write_json
from text_cls.neural.checkpoint import checkpoint_folder_problem
from text_cls.neural.run_file import RUN_FILE, read_run


def seed_folder(save_dir: str, seed: int) -> str:
    """Where the run with a seed is, until the best of them is kept in `save_dir`."""
    return f"{os.path.normpath(save_dir)}_seed{seed}"


def kept_seed(save_dir: str, seeds: range) -> int | None:
    """The seed of the run in `save_dir`, if it was the best of just these seeds; else None."""
    found = read_run(save_dir).get("seeds", {"scores": {}})
    return found["kept"] if [*found["scores"]] == [*map(str, seeds)] else None


def train_seeds(save_dir: str, seeds: range, train: Callable[[int, str], int]) -> int:
    """Trains with each seed, and keeps the best in `save_dir`.

    Args:
        train: function of (seed, folder to save to) that returns an exit status.
    Returns:
        the exit status: the first that is not 0, or 0.
    Raises:
        UserError: `save_dir` holds something else, which would be lost.
    """
    if problem := checkpoint_folder_problem(save_dir):
        raise UserError(problem)
    for number, seed in enumerate(seeds, 1):
        logger.info("-----Seed %d, run %d of %d-----", seed, number, len(seeds))
        if status := train(seed, seed_folder(save_dir, seed)):
            return status
    if is_main_process():
        keep_best(save_dir, seeds)
        remove_runs(save_dir, seeds)
    return 0


def keep_best(save_dir, seeds):
    """Copies the best run to `save_dir`, and logs the mean and the range of the scores."""
    runs = {seed: read_run(seed_folder(save_dir, seed)) for seed in seeds}
    scores = {seed: run["progress"]["best_score"] for seed, run in runs.items()}
    best = max(scores, key=scores.get)
    run = runs[best]
    run["seeds"] = {"kept": best, "scores": {str(seed): score for seed, score in scores.items()}}
    run["arguments"]["save_dir"] = save_dir
    with atomic_folder(save_dir) as draft:
        shutil.copytree(seed_folder(save_dir, best), draft, dirs_exist_ok=True)
        write_json(os.path.join(draft, RUN_FILE), run)
    metric = run["arguments"]["metric_for_best"].replace("_", " ")
    logger.info(
        "%s score on dev with seeds %s: mean %.5f, range %.5f to %.5f",
        metric,
        ", ".join(f"{seed} ({score:.5f})" for seed, score in scores.items()),
        statistics.mean(scores.values()),
        min(scores.values()),
        max(scores.values()),
    )
    logger.info(
        "The run with seed %d is the best on dev and kept in %s. The best of %d flatters, as the same rows chose it. "
        "On new texts, expect the mean rather than %.5f, or score rows that are in neither file",
        best,
        save_dir,
        len(seeds),
        scores[best],
    )


def remove_runs(save_dir, seeds):
    """Removes the folders of the single runs."""
    for seed in seeds:
        remove_folder(seed_folder(save_dir, seed))
