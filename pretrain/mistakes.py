"""A user's mistake that a rank on Ray found, kept for the ranks that start after it."""


class Box:
    """Keeps the first mistake. An actor of its own, so this module loads nothing."""

    def __init__(self) -> None:
        """Begin without one."""
        self._mistake: str | None = None

    def put(self, mistake: str) -> None:
        """Keep a mistake, if it is the first."""
        self._mistake = self._mistake or mistake

    def look(self) -> str | None:
        """Return the first mistake, if there was one."""
        return self._mistake
