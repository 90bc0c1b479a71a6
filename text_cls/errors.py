"""The error of a user's fault. Scripts import it from `text_cls.cli`, which prints it and ends with its status."""


class UserError(Exception):
    """An error the user can fix. Its text says what is wrong, where, and what to do."""

    status = 2  # that the script ends with
