"""What a running study shows, at the width of a small terminal and in a log file."""

from dataclasses import replace
from io import StringIO

from rich.console import Console
from studies import definition, row

from study.execution.live import LiveView
from study.record.states import State
from study.record.trials import make_record

PARAMS = {
    "model.pooling": "first+last",
    "objective.kl_weight": 0.9031,
    "objective.annealing": "cyclical-cosine",
    "model.latent_size": 64,
    "objective.annealing_fraction": 0.323,
    "objective.num_cycles": 2,
}


def drawn(view, width):
    stream = StringIO()
    Console(file=stream, width=width, force_terminal=False).print(view._draw())
    return stream.getvalue()


def filled_view():
    view = LiveView(definition())
    show(view, 0, [row(1, 60.5), row(2, 57.25)], State.COMPLETE)
    show(view, 1, [row(1, 61.0, kl=0.0, au=0)], State.COLLAPSED, "KL below 0.1 nats")
    show(view, 2, [row(1, 59.125)], State.RUNNING)
    return view


def show(view, number, rows, state, reason=""):
    view.update(make_record(view.definition, number, state, reason, PARAMS, rows))


def test_the_numbers_are_all_there_at_80_columns():
    text = drawn(filled_view(), 80)
    assert all(len(line) <= 80 for line in text.splitlines())
    assert "2/4 trials" in text
    assert "best so far: trial 0, nll 57.25" in text
    for cell in ("complete", "collapsed", "running", "57.25", "59.12", "pooling=first+last"):
        assert cell in text


def test_a_log_file_gets_a_line_a_trial(capsys):
    filled_view()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("[1/4] trial 0 complete after 2 epochs: NLL 57.25")
    assert "KL below 0.1 nats" in lines[1]


def lasting(*seconds):
    return [replace(row(epoch), seconds=float(each)) for epoch, each in enumerate(seconds, 1)]


def test_the_time_left_comes_from_how_long_trials_trained():
    view = LiveView(definition(concurrent=2))  # of 4 trials
    show(view, 0, lasting(5, 10), State.RUNNING)
    assert view.seconds_left() is None
    show(view, 0, lasting(10, 20, 30), State.COMPLETE)
    show(view, 1, lasting(10), State.COLLAPSED)
    # Two to come, of 20 s on average, at once.
    assert view.seconds_left() == 20
    show(view, 2, lasting(12), State.RUNNING)
    # The one that outlived the collapsed one is thought to train as long as the other did: 18 more, beside 20.
    assert view.seconds_left() == (18 + 20) / 2
    show(view, 3, lasting(4, 8), State.RUNNING)
    assert view.seconds_left() == 18
    show(view, 2, lasting(7200), State.RUNNING)
    # Longer than any: what is left of its epochs at its own pace.
    epochs = view.definition.space.most_epochs()
    assert view.seconds_left() == 7200 * (epochs - 1)
    assert " h left" in drawn(view, 80)


def test_a_study_that_goes_on_knows_the_time_left_from_its_earlier_trials():
    view = LiveView(definition(concurrent=2))
    rows = lasting(10, 20)
    view.load([make_record(view.definition, 0, State.COMPLETE, "", PARAMS, rows)])
    assert view.seconds_left() == 3 * 20 / 2


def test_gpu_hours_are_those_of_every_trial_so_far():
    view = filled_view()
    assert view.gpu_hours() == 0.0
    view.definition = replace(view.definition, gpus_per_trial=0.5)
    seconds = sum(each.seconds for each in view.shown.values())
    assert seconds > 0
    assert view.gpu_hours() == seconds * 0.5 / 3600
    text = drawn(view, 80)
    assert "GPU h" in text
    view.max_gpu_hours = 2.0
    assert f"{view.gpu_hours():.2f} of 2 GPU h" in drawn(view, 80)
    assert "last: trial 1 collapsed after 1 epochs" in text
