"""Notices of the file system, which make looking at an unchanged folder needless; never trusted alone."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any, Final

RESCAN: Final = 60.0
"""Seconds after which a folder is looked at all the same."""
WARM_UP: Final = 1.0
"""Seconds after which notices surely come."""
log = logging.getLogger(__name__)


class Watch:
    """Tells whether a look at a folder is worth while. Without the package watchdog it always is.

    A look that finds what no notice told of, as on a disk of another machine, ends the trust in them.
    """

    def __init__(self, folder: Path, *, trusted: bool = True) -> None:
        self._folder = folder
        self._observer: Any = None
        self._began = self._looked = 0.0
        self._trusted = trusted
        self._stirred = self._quiet = self._noticed = False

    def worth_a_look(self) -> bool:
        """Whether anything may have changed; the look begins now."""
        now = time.monotonic()
        if self._trusted and self._observer is None:
            self._start(now)
        late = now - self._looked > RESCAN
        if self._trusted and self._quiet and not self._stirred and not late:
            return False
        self._noticed, self._stirred, self._looked = self._stirred, False, now
        return True

    def saw(self, *, unsettled: bool) -> None:
        """The look found nothing new: it may be the last one for a while, unless files have yet to settle."""
        self._quiet = self._observer is not None and not unsettled and self._looked - self._began > WARM_UP

    def found(self) -> None:
        """The look found something new, of which a notice should have told if all was quiet before."""
        if self._quiet and not (self._noticed or self._stirred):
            log.info("%s: changes came without a notice; looking each time from now on", self._folder)
            self._trusted = False
            self.close()
        self._quiet = False

    def close(self) -> None:
        """Hear no more."""
        observer, self._observer, self._quiet = self._observer, None, False
        if observer is not None:
            observer.stop()
            observer.join()

    def _start(self, now: float) -> None:
        try:
            from watchdog import events
            from watchdog.observers import Observer

            # All but openings: looking opens folders.
            told = [
                one
                for name, one in vars(events).items()
                if name.startswith(("File", "Dir")) and name.endswith("Event") and "Open" not in name
            ]
            stir = self._stir

            class Handler(events.FileSystemEventHandler):
                def dispatch(self, event: events.FileSystemEvent) -> None:
                    stir()

            observer = Observer()
            observer.schedule(Handler(), str(self._folder), recursive=True, event_filter=told)
            observer.start()
        except (ImportError, OSError) as error:  # e.g. more folders than the system lets one watch
            log.info("%s: no notices of changes (%s); looking each time", self._folder, error)
            self._trusted = False
        else:
            self._observer, self._began = observer, now

    def _stir(self) -> None:
        self._stirred = True
