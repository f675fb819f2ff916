"""What ranks on Ray leave for those that start after them, and for the driver."""


class Box:
    """Keeps a user's first mistake that a rank found, and whether any rank began.

    It is an actor of its own, so this module loads nothing.
    """

    def __init__(self) -> None:
        """Begin without a mistake or a rank."""
        self._mistake: str | None = None
        self._has_begun = False

    def begin(self) -> str | None:
        """Note that a rank has begun; return the first mistake, if there was one."""
        self._has_begun = True
        return self._mistake

    def has_begun(self) -> bool:
        """Tell whether any rank has begun."""
        return self._has_begun

    def put(self, mistake: str) -> None:
        """Keep a mistake, if it is the first."""
        self._mistake = self._mistake or mistake

    def look(self) -> str | None:
        """Return the first mistake, if there was one."""
        return self._mistake
