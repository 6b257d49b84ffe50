"""Ways to train against what their papers say happens."""

import pytest
import torch
from conftest import tiny_settings
from studies import definition, numbers, stop_after

from data.batches import gather
from study.config.settings import validate
from study.errors import StudyError
from study.record.trials import best_row
from study.training import procedures
from study.training.loop import TrainingRun, train


@pytest.mark.parametrize(
    "tables",
    [
        {"training": {"procedure": "aggressive", "epochs": 2}},
        {"training": {"pretraining_epochs": 2, "epochs": 2}, "objective": {"free_bits": "per-dimension"}},
        {"objective": {"minimum_rate_nats": 1.0}},
        {"model": {"posterior": "batch-norm"}},
        {"model": {"posterior": "delta"}},
        {"model": {"posterior": "von-mises-fisher"}},
        {"model": {"posterior": "none"}},
        {"model": {"latent_to_output": True, "pooling": "attention"}},
        {"model": {"refinement_steps": 3}},
    ],
)
def test_every_method_trains_and_resumes_bit_for_bit(corpus, tmp_path, tables):
    settings = tiny_settings(**tables)
    whole = list(train(settings, corpus, tmp_path / "whole"))
    rows = []
    for num_steps in (4, 9, 10**6):
        rows += train(settings, corpus, tmp_path / "parts", rows_seen=len(rows), should_stop=stop_after(num_steps))
    assert repr(numbers(rows)) == repr(numbers(whole))  # repr: a language model's dispersion is nan
    assert whole[-1]["valid/nll"] < whole[0]["valid/nll"]


def test_aggressive_training_moves_one_part_at_a_time(corpus, tmp_path, monkeypatch):
    run = TrainingRun(tiny_settings(training={"procedure": "aggressive"}), corpus, tmp_path)
    monkeypatch.setattr(procedures, "INNER_STEPS", 4)
    parts = []
    work = run.stepper.work
    monkeypatch.setattr(run.stepper, "work", lambda *given: (parts.append(given[-1]), work(*given))[1])
    before = {name: value.clone() for name, value in run.network.named_parameters()}
    batch = gather(run.train_split, run.order.epoch(0)[0])
    procedures.train_encoder(lambda each: run.stepper(each, 1.0, ("encoder",))[0], batch, run.random_batches())
    assert parts == [("encoder",)] * 4
    for name, value in run.network.named_parameters():
        assert torch.equal(value, before[name]) == name.startswith("decoder"), name
    run.step(batch)
    assert parts[-1] == ("decoder",)


def test_inner_steps_end_when_the_loss_a_token_has_grown(corpus, tmp_path):
    run = TrainingRun(tiny_settings(training={"procedure": "aggressive"}), corpus, tmp_path)
    batch = gather(run.train_split, run.order.epoch(0)[0])
    losses = iter([1.0] * 15 + [0.5] * 15 + [0.7] * 99)
    calls = []

    def step(given):
        calls.append(given)
        return torch.tensor(next(losses) * given.num_targets, dtype=torch.float64)

    procedures.train_encoder(step, batch, run.random_batches())
    assert len(calls) == 45
    assert calls[0] is batch
    assert len({each.indices.tobytes() for each in calls}) > 5


def test_the_aggressive_phase_ends_for_good_when_mutual_information_first_falls():
    state, best = procedures.goes_on(1.0, 0.0)
    assert (state, best) == (True, 1.0)
    state, best = procedures.goes_on(0.9, best)
    assert (state, best) == (False, 1.0)


def test_pretraining_is_an_autoencoder_whose_decoder_is_then_new(corpus, tmp_path):
    settings = tiny_settings(training={"pretraining_epochs": 2, "epochs": 2}, objective={"annealing": "constant"})
    run = TrainingRun(settings, corpus, tmp_path)
    for _ in range(2):
        assert run.kl_weight() == 0.0
        run.train_epoch(lambda: False)
        decoder = {name: value.clone() for name, value in run.network.decoder.named_parameters()}
        encoder = {name: value.clone() for name, value in run.network.encoder.named_parameters()}
        row = run.finish_epoch()
        assert row.phase == "pretraining"
    assert not any(torch.equal(decoder[name], value) for name, value in run.network.decoder.named_parameters())
    assert all(torch.equal(encoder[name], value) for name, value in run.network.encoder.named_parameters())
    assert run.kl_weight() == 1.0


def test_pretraining_epochs_never_win(corpus, tmp_path):
    settings = tiny_settings(training={"pretraining_epochs": 2, "epochs": 2})
    rows = list(train(settings, corpus, tmp_path))
    assert [row.phase for row in rows] == ["pretraining", "pretraining", "", ""]
    rows[0] = rows[0].with_metrics({"valid/nll": 0.0})
    assert best_row(rows, definition()).number > 2
    assert not (tmp_path / "best-00001").exists()


def test_the_minimum_rate_pulls_the_kl_up_to_it(corpus, tmp_path):
    tables = {"training": {"epochs": 40, "halving_patience": 99}, "model": {"pooling": "max"}}
    free = list(train(tiny_settings(**tables), corpus, tmp_path / "free"))[-1]["train/kl"]
    held = list(train(tiny_settings(**tables, objective={"minimum_rate_nats": 3.0}), corpus, tmp_path / "held"))[-1]
    assert free < 1.0
    assert held["train/kl"] == pytest.approx(3.0, rel=0.15)


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        ({"model": {"posterior": "none"}, "training": {"procedure": "aggressive"}}, "none has none"),
        ({"model": {"posterior": "none"}, "objective": {"free_bits": "total"}}, "none has none"),
        ({"model": {"posterior": "none"}, "training": {"pretraining_epochs": 1}}, "none has none"),
        ({"model": {"posterior": "none", "latent_to_output": True}}, "none has none"),
        ({"objective": {"free_bits": "total", "minimum_rate_nats": 1.0}}, "choose one"),
        ({"model": {"refinement_steps": 2}, "objective": {"free_bits": "total"}}, "choose one"),
        ({"model": {"posterior": "von-mises-fisher"}, "objective": {"free_bits": "total"}}, "constant"),
        ({"model": {"posterior": "von-mises-fisher"}, "objective": {"minimum_rate_nats": 1.0}}, "constant"),
        ({"model": {"posterior": "von-mises-fisher", "latent_size": 1}}, "at least 2"),
        ({"model": {"posterior": "batch-norm"}, "training": {"batch_size": 1}}, "at least 2"),
    ],
)
def test_combinations_that_make_no_sense_are_refused_with_the_reason(tables, words):
    with pytest.raises(StudyError, match=words):
        validate(tables)


def test_epochs_of_pretraining_do_not_bring_the_first_halving_nearer(corpus, tmp_path):
    training = {
        "pretraining_epochs": 4,
        "epochs": 14,
        "learning_rate": 0.1,
        "halving_patience": 1,
        "first_halving_epoch": 8,
        "max_halvings": 3,
    }
    rows = list(train(tiny_settings(training=training), corpus, tmp_path))
    rates = {row.number - 4: row["train/learning_rate"] for row in rows}
    assert {rates[epoch] for epoch in range(1, 9)} == {0.1}
    assert min(rates.values()) < 0.1


def test_seconds_of_training_leave_out_validation(corpus, tmp_path):
    rows = list(train(tiny_settings(), corpus, tmp_path))
    assert all(0 < row["train/seconds"] < row.seconds for row in rows)
    assert [row["train/seconds"] for row in rows] == sorted(row["train/seconds"] for row in rows)
