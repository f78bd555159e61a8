"""The one exception that carries a message for the user."""


class MomeError(Exception):
    """Something the user can mend: one line that names the file or option and says how.

    The command line prints the message without a traceback and exits with code 2.
    """
