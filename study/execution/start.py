"""Running a study that is planned or gone on with, and what is said when it ends."""

from __future__ import annotations

import math
import signal
from contextlib import nullcontext
from typing import TYPE_CHECKING

from data.errors import CorpusError
from study.analysis.seed_noise import seed_noise
from study.config.naming import CONFIRMATION
from study.config.request import RunRequest
from study.errors import StudyError
from study.planning.plan import sharing
from study.record.journal import storage_hint
from study.record.ledger import Ledger
from study.record.states import State, StudyEnd

if TYPE_CHECKING:
    from rich.console import Console

    from study.execution.launch import Outcome


def start(ledger: Ledger, request: RunRequest, *, show_report: bool = True, print_report: bool = True) -> int:
    """Run a study, new or resumed, to its end or interruption, and say what came out; return the exit code.

    `show_report` has its report drawn for MLflow, and printed unless not `print_report`.
    """
    from study.console import make_console
    from study.execution.launch import Budget, run_study
    from study.execution.live import LiveView
    from study.execution.mps import serving

    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        # Of a shell's background job, which `study stop` is to end as any other.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    definition, name = ledger.definition, ledger.definition.name
    progress = make_console(stderr=True)
    progress.print(
        f"study {name}: {definition.num_trials} trials on {definition.corpus_name},"
        f" {definition.concurrent} at once; Ctrl-C ends it in order",
        markup=False,
    )
    budget = Budget(
        request.time_budget * 60 if request.time_budget is not None else None,
        math.inf if request.max_gpu_hours is None else request.max_gpu_hours,
        request.stop_when_settled,
    )
    if request.stop_when_settled:
        check_can_settle(ledger)
    try:
        shared = sharing(definition) if request.address is None else None
        if shared is not None:
            progress.print(f"GPUs: {shared}", markup=False)
        view = LiveView(definition, request.max_gpu_hours)
        memory = shared.memory_bytes if shared is not None else ()
        with serving(definition.gpus_per_trial, memory) if request.mps else nullcontext():
            outcome = run_study(
                ledger, view, address=request.address, budget=budget, with_report=show_report, function=request.function
            )
    except (StudyError, CorpusError):
        if request.resume is None and not any(trial.started for trial in ledger.trials()):
            # Its name is free again: nothing has been tried.
            ledger.discard()
        raise
    finally:
        ledger.close()
    return conclude(ledger, outcome, progress, show_report=show_report and print_report)


def check_can_settle(ledger: Ledger) -> None:
    """Raise StudyError where it could never be said that a search has settled."""
    definition = ledger.definition
    if definition.goal.is_pareto:
        raise StudyError(
            "--stop-when-settled asks what the best trial can still gain; the objective pareto has no such end"
        )
    if definition.num_tested == 0 and math.isnan(seed_noise(ledger.trials())[0]):
        raise StudyError(
            "--stop-when-settled needs the noise of seeds, and no setting of this study has several: add the pooling"
            " test (--stages pooling,search), or leave it out"
        )


def conclude(ledger: Ledger, outcome: Outcome, progress: Console, *, show_report: bool) -> int:
    """Say what came out of a run of a study, and how to go on; return the exit code."""
    from study.analysis.seed_noise import known_noise
    from study.console import make_console
    from study.execution.launch import EXIT_INTERRUPTED
    from study.reporting.tables import study_report

    definition, name = ledger.definition, ledger.definition.name
    if show_report:
        trials = ledger.trials()
        make_console().print(study_report(definition, trials, known_noise(ledger, trials)[1]))
    option = storage_hint(ledger.folder.parent)
    if not outcome.recorded:
        progress.print(
            f"MLflow has not heard everything; `study run --resume {name}{option}` sends the rest", markup=False
        )
    ending = outcome.ending
    if ending.end == StudyEnd.SETTLED:
        progress.print(
            f"settled with {ledger.num_left()} trials to go: {ending.reason}; `study run --resume {name}{option}` tries"
            " them all the same",
            markup=False,
        )
        return 0
    if ending.end != StudyEnd.COMPLETE:
        progress.print(f"ended early: {ending.reason}; go on with `study run --resume {name}{option}`", markup=False)
        return {StudyEnd.ALL_FAILED: 1, StudyEnd.INTERRUPTED: EXIT_INTERRUPTED}.get(ending.end, 0)
    if not any(trial.state != State.FAILED for trial in ledger.trials()):
        progress.print("every trial failed; `study report` says why", markup=False)
        return 1
    commands = {
        f"study report {name} --html {name}.html{option}": "all of it with its figures, as one page",
        f"study ui {name}{option}": "its runs in MLflow",
        f"study confirm {name}{option}": "whether its best settings hold with fresh seeds",
    }
    if definition.is_comparison or name.endswith(CONFIRMATION):
        commands.popitem()
    width = max(map(len, commands))
    progress.print("\nnext:", markup=False)
    for command, words in commands.items():
        progress.print(f"  {command:{width}}  {words}", markup=False)
    return 0
