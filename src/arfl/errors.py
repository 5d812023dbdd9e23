"""The one exception that a user's mistake or environment may end in."""


class UserError(Exception):
    """A failure that the user can mend; its text names the thing at fault and the remedy.

    The command line prints the text alone, without a traceback, and exits with status 2.
    """
