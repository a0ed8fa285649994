"""Progress bars: tqdm's, which a notebook shows as text."""

import io
import sys
from typing import Any

from tqdm import tqdm


class Bar(tqdm):
    """A bar that is text in a notebook and so stays readable when the notebook is reopened.

    Args:
        *args: of ``tqdm``.
        **options: of ``tqdm``; ``leave=False`` has an effect in a terminal only.
    """

    def __init__(self, *args: Any, **options: Any):
        self._handle: Any = None
        ipython = sys.modules.get("IPython")
        self._in_notebook = ipython is not None and hasattr(ipython.get_ipython(), "kernel")
        if self._in_notebook:
            options |= {"file": io.StringIO(), "ascii": False}
        super().__init__(*args, **options)

    def display(self, msg: str | None = None, pos: int | None = None) -> bool | None:
        """Show the bar; called by tqdm with the arguments of its own ``display``."""
        if not self._in_notebook:
            return super().display(msg, pos)
        from IPython.display import display

        data = {"text/plain": str(self)}
        if self._handle is None:
            self._handle = display(data, raw=True, display_id=True)
        else:
            self._handle.update(data, raw=True)
        return None
