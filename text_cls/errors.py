"""The error of a user's fault. Scripts import it from `text_cls.cli`, which prints it and ends with status 2."""


class UserError(Exception):
    """An error the user can fix. Its text says what is wrong, where, and what to do."""
