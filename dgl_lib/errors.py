"""The one exception that means "the user can mend this"."""


class UserError(ValueError):
    """A mistake in what was asked for: one line that says what was wrong, what was given and what is allowed.

    The command line prints it as ``error: ...`` and exits with status 2, without a traceback.
    """
