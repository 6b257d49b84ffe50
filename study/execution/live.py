"""What a running study shows: one live table in a terminal, plain lines elsewhere; all of it on stderr."""

from __future__ import annotations

import time
from dataclasses import replace
from statistics import mean
from types import TracebackType

from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from study.console import make_console
from study.record.formats import show_params
from study.record.states import USABLE, State
from study.record.trials import TrialRecord
from study.reporting.tables import headings, metric_cells, shown_metrics
from study.search.definition import Definition

SHOWN_FINISHED, BAR_WIDTH = 8, 24


class LiveView:
    """Progress, time left, the best so far and each running trial's KL, AU and NLL."""

    def __init__(self, definition: Definition, max_gpu_hours: float | None = None) -> None:
        self.definition = definition
        self.max_gpu_hours = max_gpu_hours
        self.console = make_console(stderr=True)
        self.started = time.monotonic()
        self.shown: dict[int, TrialRecord] = {}
        """Each trial with its last epoch alone: of thousands, every epoch would fill the memory."""
        self.message = ""
        self.last = ""
        self._live: Live | None = None

    def load(self, trials: list[TrialRecord]) -> None:
        """Begin from what an earlier run of the study left."""
        for trial in trials:
            if trial.state not in (State.RUNNING, State.WAITING):
                self.shown[trial.number] = replace(trial, rows=trial.rows[-1:])

    def __enter__(self) -> LiveView:
        """Start to draw, if there is a terminal."""
        if self.console.is_terminal:
            self._live = Live(get_renderable=self._draw, console=self.console, refresh_per_second=2, transient=True)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop drawing."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def update(self, trial: TrialRecord) -> None:
        """Show a trial's new epoch or its end."""
        self.shown[trial.number] = replace(trial, rows=trial.rows[-1:])
        stage = " of the pooling test" if self.definition.is_tested(trial.number) else ""
        ended = f"trial {trial.number}{stage} {trial.state} after {trial.epochs} epochs"
        if not trial.is_running:
            self.last = f"last: {ended}" + (f", {trial.reason}" if trial.reason else "")
        if self._live is not None:
            return
        if not trial.is_running:
            names = shown_metrics(self.definition)
            metrics = zip(headings(names), metric_cells(trial.best, names), strict=True)
            cells = ", ".join(f"{name} {cell}" for name, cell in metrics)
            self.console.print(
                f"[{self.num_over()}/{self.definition.num_trials}] {ended}:"
                f" {cells}; {show_params(trial.params)}{'; ' + trial.reason if trial.reason else ''}"
                f"{self._eta()}{self._gpus()}",
                markup=False,
                soft_wrap=True,
            )

    def problem(self, message: str) -> None:
        """Show something that went wrong but does not end the study; the same thing once."""
        if message != self.message:
            self.message = message
            if self._live is None:
                self.console.print(message, markup=False, soft_wrap=True)

    def num_over(self) -> int:
        """Count the trials that are over."""
        return sum(not each.is_running for each in self.shown.values())

    def seconds_left(self) -> float | None:
        """Estimate the time left from how long trials trained, early ends included; None before the first has ended.

        A trial to come takes the mean of those that ended, a running one the mean of those that lasted longer than it
        has, or else what its epochs still to come take at its own pace.
        """
        ended = [each.seconds for each in self.shown.values() if not each.is_running and each.epochs]
        if not ended:
            return None
        most = self.definition.space.most_epochs()
        running = []
        for each in self.shown.values():
            if each.is_running:
                longer = [seconds - each.seconds for seconds in ended if seconds > each.seconds]
                at_most = each.seconds / each.epochs * max(0, most - each.epochs) if each.epochs else mean(ended)
                running.append(min(at_most, mean(longer)) if longer else at_most)
        waiting = self.definition.num_trials - len(self.shown)
        work = sum(running) + max(0, waiting) * mean(ended)
        left: float = max([work / min(self.definition.concurrent, max(1, len(running) + waiting)), *running])
        return left

    def gpu_hours(self) -> float:
        """Return what all trials, those of earlier runs of the study included, have used of the GPUs so far."""
        seconds = sum(each.seconds for each in self.shown.values())
        return float(seconds * self.definition.gpus_per_trial / 3600)

    def _eta(self) -> str:
        seconds = self.seconds_left()
        if not seconds:
            return ""
        return (
            f" (about {seconds / 60:.1f} min left)" if seconds < 2 * 3600 else f" (about {seconds / 3600:.1f} h left)"
        )

    def _gpus(self) -> str:
        if not self.definition.gpus_per_trial:
            return ""
        budget = f" of {self.max_gpu_hours:g}" if self.max_gpu_hours is not None else ""
        return f", {self.gpu_hours():.2f}{budget} GPU h"

    def summary(self) -> str:
        """Return how far the study is, for whoever looks from elsewhere: time trained, of GPUs, and left."""
        trained = sum(each.seconds for each in self.shown.values())
        return f"{trained / 60:.1f} min of training{self._gpus()}{self._eta()}"

    def progress(self) -> str:
        """Return which trials are over, which stage this is, and the time left."""
        return f"{self.num_over()} of {self.definition.num_trials} trials over{self._stage()}{self._eta()}"

    def _draw(self) -> Group:
        over, total = self.num_over(), self.definition.num_trials
        seconds = time.monotonic() - self.started
        filled = BAR_WIDTH * over // total
        bar = "━" * filled + "─" * (BAR_WIDTH - filled)
        head = f"{self.definition.name} {bar} {over}/{total} trials, {seconds / 60:.1f} min"
        head += self._gpus() + self._stage()
        table = Table(box=None, pad_edge=False, expand=True)
        names = shown_metrics(self.definition)[:4]
        for name in ("trial", "state", "epoch", *headings(names)):
            table.add_column(name, justify="left" if name == "state" else "right", no_wrap=True)
        # What is left of the line: the numbers come first.
        table.add_column("settings", overflow="ellipsis", no_wrap=True, ratio=1)
        running = sorted(number for number, each in self.shown.items() if each.is_running)
        finished = sorted(number for number, each in self.shown.items() if not each.is_running)
        for number in [*finished[-SHOWN_FINISHED:], *running]:
            each = self.shown[number]
            cells = metric_cells(each.rows[-1] if each.is_running and each.rows else each.best, names)
            table.add_row(str(number), each.state, str(each.epochs), *cells, show_params(each.params))
        parts: list[RenderableType] = [Text(head + self._eta()), Text(self._best_so_far()), table]
        if self.last:
            parts.append(Text(self.last, overflow="ellipsis", no_wrap=True))
        return Group(*parts, Text(self.message)) if self.message else Group(*parts)

    def _stage(self) -> str:
        tested, total = self.definition.num_tested, self.definition.num_trials
        if not 0 < tested < total:
            return ""
        over = sum(not each.is_running for number, each in self.shown.items() if number < tested)
        return f", pooling test {over}/{tested}" if over < tested else ", search"

    def _best_so_far(self) -> str:
        found = [each for each in self.shown.values() if each.state in USABLE and each.feasible]
        usable = [(each.score, each.number) for each in found]
        if not usable:
            return "best so far: none feasible yet"
        score, number = min(usable)
        return f"best so far: trial {number}, {self.definition.goal.ranked} {score:.2f}"
