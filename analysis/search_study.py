"""The trials of `search.py` in a file of SQLite, shared by all processes that search in the same folder.

Optuna's heartbeat would notice a killed process after a while, and only with `study.optimize`. Here, a running trial
holds a lock, which the system frees as soon as its process ends, so that the next process knows at once.
"""

import contextlib
import warnings

from text_cls.cli import UserError
from text_cls.language import tr
from text_cls.locks import try_lock, unlock

PATIENCE = 60  # seconds to wait for another process, which holds the lock of the study for moments only
STARTED = 5  # trials with a score before any is stopped early
DATABASE, ROWS = "search.db", "rows"  # in the folder of the search: the trials, and the folder of their data


class Trials:
    """The trials of one study. A trial that was interrupted is marked as failed, and another one continues its work.

    Args:
        folder: `Path` of the search.
        name: of the study, a word for one of its trials.
        space: {name: Optuna distribution}.
        seed: of the sampler.
    """

    def __init__(self, folder, name, space, seed):
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.folder, self.name, self.space, self.seed = folder, name, space, seed
        self.state = optuna.trial.TrialState
        with self.locked(), storage_errors(folder):
            storage = optuna.storages.RDBStorage(
                f"sqlite:///{folder / DATABASE}", engine_kwargs={"connect_args": {"timeout": PATIENCE}}
            )
            self.study = optuna.create_study(
                storage=storage,
                study_name=name,
                direction="maximize",
                load_if_exists=True,
                pruner=optuna.pruners.MedianPruner(n_startup_trials=STARTED),
            )

    @contextlib.contextmanager
    def locked(self):
        """In the block, no other process changes which trials there are."""
        lock = try_lock(str(self.folder / "search.lock"), wait=PATIENCE)
        if lock is None:
            raise UserError(
                tr(
                    "another process has been holding {folder} for {patience} seconds",
                    folder=self.folder / "search.lock",
                    patience=PATIENCE,
                )
            )
        try:
            yield
        finally:
            unlock(*lock)

    def all(self):
        return self.study.get_trials(deepcopy=False)

    def latest(self):
        """{number of a work: the last trial of it}: a work is one trial, or those that continued it."""
        return {work_of(trial): trial for trial in self.all()}

    def running(self):
        return [trial for trial in self.all() if trial.state == self.state.RUNNING]

    def folder_of(self, trial):
        """Where the script writes."""
        return self.folder / "trials" / f"{self.name}-{work_of(trial)}"

    @contextlib.contextmanager
    def next(self, most):
        """The next trial, or None: one to be continued, one that waits, or a new one if there are fewer than `most`.

        If it is still running when the block ends, it was interrupted: it is marked as failed, and waits again.
        """
        with self.locked():
            self._give_back_killed()
            waiting = any(trial.state == self.state.WAITING for trial in self.all())
            trial = lock = None
            if waiting or len(self.latest()) < most:
                trial = self._ask()
                lock = try_lock(self._lock_of(trial), wait=0)
        try:
            yield trial
        finally:
            if trial is not None:
                with self.locked():
                    if self._is_running(trial):
                        self._give_back(trial.number)
                unlock(*lock)

    def _ask(self):
        import optuna

        # So that the same trials lead to the same next one, whichever process draws it.
        number = len(self.latest())
        self.study.sampler = optuna.samplers.TPESampler(seed=(self.seed * 1_000_003 + number) % 2**32)
        return self.study.ask(self.space)

    def _lock_of(self, trial):
        folder = self.folder / "trials"
        folder.mkdir(exist_ok=True)
        return str(folder / f"{self.name}-{trial.number}.lock")

    def _is_running(self, trial):
        return any(other.number == trial.number for other in self.running())

    def _give_back_killed(self):
        for trial in self.running():
            if lock := try_lock(self._lock_of(trial), wait=0):
                self._give_back(trial.number)
                unlock(*lock)

    def _give_back(self, number):
        trial = self.all()[number]
        self.study.tell(number, state=self.state.FAIL)
        # A process may have been killed before it had noted all parameters of a trial that was waiting.
        params = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
        self.enqueue(params, **{**trial.user_attrs, "continues": work_of(trial)})

    def enqueue(self, params, **attributes):
        """Adds a trial that waits. attributes: of the user, as JSON values."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Optuna's, for values that are not in the space
            self.study.enqueue_trial(params, user_attrs=attributes)


def work_of(trial):
    """The number of a work: of the trial that began it."""
    return trial.user_attrs.get("continues", trial.number)


@contextlib.contextmanager
def storage_errors(folder):
    """Makes it a `UserError` if the file of a search cannot be read or written."""
    from optuna.exceptions import OptunaError
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (OptunaError, SQLAlchemyError) as error:
        cause = error.__cause__ or error
        reason = str(getattr(cause, "orig", cause)).splitlines()[0]
        raise UserError(
            tr(
                "{folder} cannot be used ({reason}); the disk may be full or not writable, or this is not the file of "
                "a search: then name a new --output_dir",
                folder=folder / DATABASE,
                reason=reason,
            )
        ) from error
