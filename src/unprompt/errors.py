"""The one error a user sees: what happened, where, and how to mend it, in one line."""


class UserError(Exception):
    """Something the user can mend. The command line prints it without a traceback and exits with 2.

    Args:
        what: What is wrong, in plain words.
        where: File, line, recipe key or example id.
        fix: What to do about it.
    """

    def __init__(self, what: str, *, where: str = "", fix: str = "") -> None:
        self.what, self.where, self.fix = what, where, fix
        super().__init__(what)

    def __str__(self) -> str:
        line = f"{self.where}: {self.what}" if self.where else self.what
        return " ".join((f"{line} -> {self.fix}" if self.fix else line).split())
