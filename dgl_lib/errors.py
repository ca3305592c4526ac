"""The one exception that means "the user can mend this"."""


class UserError(ValueError):
    """One line that says what was wrong, what was given and what is allowed; the command line prints it and exits."""
