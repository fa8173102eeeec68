"""Exceptions whose messages are shown to the user."""


class UserError(ValueError):
    """Something only the user can fix: a setting, a file, a failed download.

    The message says what was given, what is allowed and what to change. The entry points print it
    without a traceback and exit with code 2.
    """


class CrashError(Exception):
    """Another process of the job failed with an internal error; the text is its traceback.

    The entry points print it and exit with code 1.
    """
