"""Three ways to tell the steps of a deploy: lines, a live display, a JSON stream."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from agent.cli.output import say_json, tell, wants_colour

if TYPE_CHECKING:
    from rich.progress import TaskID


class LineReporter:
    """One plain line a step, on stderr."""

    def step(self, name: str, detail: str, **facts: object) -> None:
        del facts
        tell(f"{time.strftime('%H:%M:%S')}  {name:<8}  {detail}")

    def close(self) -> None:
        """Nothing to take down."""


class LiveReporter:
    """The steps so far, and the running one with its seconds, on a terminal's stderr."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        self._console = Console(stderr=True, highlight=False)
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
        )
        self._task: TaskID | None = None
        self._running = ""
        self._began = time.monotonic()

    def step(self, name: str, detail: str, **facts: object) -> None:
        del name, facts
        self._finish()
        self._running = detail
        self._began = time.monotonic()
        self._progress.start()
        if self._task is not None:
            self._progress.remove_task(self._task)
        self._task = self._progress.add_task(detail, total=None)

    def close(self) -> None:
        self._finish()
        self._progress.stop()

    def _finish(self) -> None:
        if self._running:
            took = time.monotonic() - self._began
            self._console.print(f"[green]·[/green] {_safe(self._running)} [dim]{took:.1f} s[/dim]")
            self._running = ""


class JsonReporter:
    """One JSON object a step, on stdout."""

    def step(self, name: str, detail: str, **facts: object) -> None:
        say_json({"step": name, "detail": detail, **facts}, compact=True)

    def close(self) -> None:
        """Nothing to take down."""


Reporter = LineReporter | LiveReporter | JsonReporter


def reporter(*, as_json: bool) -> Reporter:
    """The one that fits where the output goes."""
    if as_json:
        return JsonReporter()
    return LiveReporter() if wants_colour(sys.stderr) else LineReporter()


def _safe(text: str) -> str:
    """Square brackets are markup to rich."""
    return text.replace("[", r"\[")
