"""What a running study shows, at the width of a small terminal and in a log file."""

from io import StringIO

from rich.console import Console
from test_ledger import definition, row

from study.live import LiveView

PARAMS = {"model.pooling": "first+last", "objective.kl_weight": 0.9031, "objective.annealing": "cyclical-cosine",
          "model.latent_size": 64, "objective.annealing_fraction": 0.323, "objective.num_cycles": 2}  # fmt: skip


def drawn(view, width):
    stream = StringIO()
    Console(file=stream, width=width, force_terminal=False).print(view._draw())
    return stream.getvalue()


def filled_view():
    view = LiveView(definition())
    view.update(0, PARAMS, [row(1, 60.5), row(2, 57.25)], "complete", "")
    view.update(1, PARAMS, [row(1, 61.0, kl=0.0, au=0)], "collapsed", "KL below 0.1 nats")
    view.update(2, PARAMS, [row(1, 59.125)], "running", "")
    return view


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


def test_the_time_left_comes_from_the_trials_of_this_run():
    view = LiveView(definition())
    assert view.seconds_left() is None
    view.update(0, PARAMS, [row(1)], "complete", "")
    view.started -= 30.0
    assert 85 < view.seconds_left() < 95
    view.started -= 3600.0
    assert " h left" in drawn(view, 80)


def test_gpu_hours_are_those_of_every_trial_so_far():
    from dataclasses import replace

    view = filled_view()
    assert view.gpu_hours() == 0.0
    view.definition = replace(view.definition, gpus_per_trial=0.5)
    seconds = sum(rows[-1]["seconds"] for _, rows, _, _ in view.shown.values())
    assert seconds > 0
    assert view.gpu_hours() == seconds * 0.5 / 3600
    text = drawn(view, 80)
    assert "GPU h" in text
    view.max_gpu_hours = 2.0
    assert f"{view.gpu_hours():.2f} of 2 GPU h" in drawn(view, 80)
    assert "last: trial 1 collapsed after 1 epochs" in text
