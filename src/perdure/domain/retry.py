"""When a failed run is tried again."""

from __future__ import annotations

from datetime import timedelta

from perdure.domain.errors import InvalidInput
from perdure.domain.record import Record


class RetryPolicy(Record):
    """Exponential backoff with full jitter
    (source: "Exponential Backoff and Jitter", AWS Architecture Blog, 2015).

    Attributes:
        max_attempts: runs that may end badly before the job is `failed`.
        base: seconds before the second run.
        factor: by which the wait grows from run to run.
        ceiling: seconds that a wait never exceeds.
        jitter: the share of the wait that is drawn by chance, 0.0 to 1.0.
    """

    max_attempts: int = 3
    base: float = 2.0
    factor: float = 2.0
    ceiling: float = 600.0
    jitter: float = 0.5

    def __post_init__(self) -> None:
        if self.max_attempts < 1:
            raise InvalidInput(f"max_attempts is {self.max_attempts}; expected 1 or more")
        if not 0 <= self.jitter <= 1:
            raise InvalidInput(f"jitter is {self.jitter}; expected 0.0 to 1.0")
        if not (self.base >= 0 and self.factor >= 1 and self.ceiling >= 0):  # refuses NaN too
            raise InvalidInput("base and ceiling must be 0 or more, factor 1 or more")

    def delay(self, attempt: int, chance: float) -> timedelta:
        """How long to wait after the `attempt`-th run (counted from 1) ended badly.

        Args:
            chance: uniform in [0, 1).
        """
        try:
            grown = self.base * self.factor ** (attempt - 1)
        except OverflowError:  # beyond every ceiling, unless there is nothing that could grow
            grown = self.ceiling if self.base else 0.0
        return timedelta(seconds=min(self.ceiling, grown) * (1 - self.jitter * chance))
