"""What ranks on Ray leave for those that start after them, the driver and Ray's controller."""


class Box:
    """Keeps why no rank is to train any more, and whether the ranks are asked for a checkpoint.

    It is an actor of its own, so this module loads nothing.
    """

    def __init__(self) -> None:
        """Begin with nothing."""
        self._mistake: str | None = None
        self._farewell: str | None = None
        self._has_begun = self._is_wanted = self._is_ending = False

    def begin(self) -> bool:
        """Note that a rank has begun; tell whether there is something to do."""
        self._has_begun = True
        return self._mistake is None and not self._is_ending

    def has_begun(self) -> bool:
        """Tell whether any rank has begun."""
        return self._has_begun

    def put(self, mistake: str) -> None:
        """Keep a user's mistake that a rank found, if it is the first."""
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

    def end(self) -> bool:
        """Want a checkpoint, and no rank after it; tell whether any has begun."""
        self._is_wanted = self._is_ending = True
        return self._has_begun

    def is_ending(self) -> bool:
        """Tell whether the ranks are to end."""
        return self._is_ending

    def leave(self, farewell: str) -> None:
        """Note that the ranks have ended as they were told, and what they say of it."""
        self._farewell = farewell

    def farewell(self) -> str | None:
        """Return what ranks that were told to end have said."""
        return self._farewell
