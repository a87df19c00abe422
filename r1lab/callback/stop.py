"""Ctrl-C, or SIGTERM from a scheduler, during a fit: the step is finished and saved first; a second one stops at once.

Lightning answers a KeyboardInterrupt with `sys.exit(1)` wherever it strikes, be it in the middle of an optimizer step.
"""

import os
import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Any


class Interrupted(BaseException):
    """Ctrl-C ended the fit. `step` is the newest step that is saved, `checkpoint` its file; None: none is."""

    def __init__(self, step: int | None, checkpoint: Path | None):
        self.step, self.checkpoint = step, checkpoint
        super().__init__(
            f"stopped; step {step} is saved in {checkpoint}" if checkpoint else "stopped; nothing is saved"
        )


class CtrlC:
    """Notes the first Ctrl-C in `pressed`, and raises `Interrupted` at the second."""

    def __init__(self) -> None:
        self.pressed = False
        self.saved: tuple[int, Path] | None = None  # step and file of the newest checkpoint
        self._before: dict[int, Any] = {}

    def install(self) -> None:
        """Take over SIGINT and SIGTERM; in threads other than the main one, where Python cannot, do nothing."""
        if not self._before and threading.current_thread() is threading.main_thread():
            self.pressed = False
            self._before = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore(self) -> None:
        """Give the signals back."""
        for number, before in self._before.items():
            signal.signal(number, before or signal.default_int_handler)
        self._before = {}

    def leave(self) -> None:
        """Raise `Interrupted`."""
        raise Interrupted(*(self.saved or (None, None)))

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.pressed:
            self.leave()
        self.pressed = True
        text = "stopping after this step, which will be saved; Ctrl-C again stops at once"
        if number == signal.SIGTERM and int(os.environ.get("WORLD_SIZE", 1)) > 1:
            # Launchers of ranks send it to all others where one is gone, without which no step is finished.
            saved = f"; step {self.saved[0]} is saved" if self.saved else ""
            text = f"asked to end: after this step, which will be saved, if every rank is still there{saved}"
        # A print could strike in the middle of another one, which Python forbids.
        os.write(2, f"\n{text}\n".encode())
