"""Progress bars on a clock that only runs forward."""

import time

from tqdm.auto import tqdm as _tqdm


class tqdm(_tqdm):
    """tqdm measures with the system's clock: set back by a day, it stands still for a day.

    This one measures with the clock that nobody sets.
    """

    @property
    def _time(self):
        return time.monotonic

    @_time.setter
    def _time(self, clock) -> None:
        """tqdm's own constructor sets the system's clock."""
