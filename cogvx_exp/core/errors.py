"""The error classes that are meant for the user's eyes."""


class UserError(ValueError):
    """Something only the user can fix: a setting, a file, a missing download.

    The message says what was given, what is allowed and what to change. The entry points print it
    without a traceback and exit with code 2.
    """


class CrashError(Exception):
    """Another process of ours failed with an internal error: the text is its traceback.

    The entry points print it and exit with code 1.
    """
