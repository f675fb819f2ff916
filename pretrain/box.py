"""What ranks on Ray leave for those that start after them, the driver and Ray's controller."""


class Box:
    """Keeps a user's first mistake that a rank found, whether a rank began and is to save.

    It is an actor of its own, so this module loads nothing.
    """

    def __init__(self) -> None:
        """Begin with nothing."""
        self._mistake: str | None = None
        self._has_begun = False
        self._is_wanted = False

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

    def want(self) -> None:
        """Want a checkpoint."""
        self._is_wanted = True

    def is_wanted(self) -> bool:
        """Tell whether a checkpoint is wanted that has not been written yet."""
        return self._is_wanted

    def grant(self) -> None:
        """Note that a checkpoint is written."""
        self._is_wanted = False
