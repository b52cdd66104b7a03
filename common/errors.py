"""The one exception that is shown to a user without a traceback."""


class UserError(ValueError):
    """A mistake that the user can mend: the text names the file or argument, what was found, what was expected and what to do.

    ``common.require`` installs a hook that prints the text of a ``UserError`` alone, also when MONAI or ignite wrapped it in others.
    """
