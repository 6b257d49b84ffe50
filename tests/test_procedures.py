"""Ways to train against what their papers say happens."""

import math

import pytest
import torch
from conftest import tiny_settings
from studies import definition, numbers, stop_after

from data.batches import gather
from model.config import ObjectiveSettings
from study.config.settings import validate
from study.config.training import TrainingSettings
from study.errors import StudyError
from study.record.trials import best_row
from study.training import procedures
from study.training.learning_rate import rate_factor
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
        {"model": {"posterior": "scaled"}},
        {"objective": {"target_kl_nats": 1.0}},
        {"training": {"warmup_fraction": 0.3, "decay": "cosine"}},
        {"model": {"encoder": "gru", "decoder": "gru", "num_decoder_layers": 2, "inner_dropout": 0.3}},
        {
            "model": {
                "encoder": "transformer",
                "decoder": "transformer",
                "num_encoder_layers": 2,
                "inner_dropout": 0.1,
            },
            "training": {"learning_rate": 0.002, "warmup_fraction": 0.2},
        },
        {"model": {"decoder": "transformer", "refinement_steps": 2, "positions": "learned"}},
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


def steer(kl_of_weight, num_steps, state=None, target=3.0, most=1.0):
    """Return the weights that the controller chooses for a network whose KL is a function of the weight."""
    objective = ObjectiveSettings(target_kl_nats=target, proportional_gain=0.01, integral_gain=0.01)
    state, weights = torch.zeros(2) if state is None else state, []
    for _ in range(num_steps):
        kl = torch.tensor(kl_of_weight(float(state[1])))
        weights.append(float(procedures.control(state, kl, most, objective)))
    return weights, state


def test_the_controller_is_its_formula():
    objective = ObjectiveSettings(target_kl_nats=3.0, proportional_gain=0.5, integral_gain=0.01)
    state, total = torch.zeros(2), 0.0
    for kl in (5.0, 4.0, 6.0):
        error = 3.0 - kl
        total -= 0.01 * error
        expected = 0.5 / (1 + math.exp(error)) + total
        assert float(procedures.control(state, torch.tensor(kl), 1.0, objective)) == pytest.approx(expected)


def test_the_controller_brings_the_kl_to_its_target_and_comes_off_a_bound_at_once():
    weights, _ = steer(lambda weight: 6.0 * (1.0 - weight), 2000)
    assert weights[-1] == pytest.approx(0.5, abs=0.01)
    assert all(0.0 <= weight <= 1.0 for weight in weights)
    # A KL that stays far above the target for long: the sum must not have grown meanwhile.
    weights, state = steer(lambda _: 50.0, 2000)
    assert weights[-1] == 1.0
    assert float(state[0]) <= 1.0
    # KL of 1 for a target of 3: the sum falls by 0.02 a step.
    after, _ = steer(lambda _: 1.0, 100, state)
    assert after[60] == 0.0
    below, state = steer(lambda _: 0.0, 2000)
    assert below[-1] < 0.01
    assert steer(lambda _: 50.0, 3, state)[0][-1] > 0.9


def test_a_controlled_kl_is_held_and_its_weight_is_on_record(corpus, tmp_path):
    training = {"epochs": 40, "halving_patience": 99}
    objective = {"target_kl_nats": 2.0, "integral_gain": 0.01, "annealing": "constant"}
    settings = tiny_settings(training=training, model={"pooling": "max"}, objective=objective)
    last = list(train(settings, corpus, tmp_path))[-1]
    assert last["train/kl"] == pytest.approx(2.0, rel=0.2)
    assert 0.0 < last["train/kl_weight"] < 1.0


def test_the_learning_rate_warms_up_and_falls_by_a_cosine_and_is_each_steps_own():
    training = TrainingSettings(warmup_fraction=0.2, decay="cosine")
    assert [rate_factor(training, done) for done in (0.1, 0.2, 0.6, 1.0)] == pytest.approx([0.5, 1.0, 0.5, 0.0])
    steady = TrainingSettings(warmup_fraction=0.2)
    assert [rate_factor(steady, done) for done in (0.05, 0.2, 1.0)] == pytest.approx([0.25, 1.0, 1.0])


def test_optimisers_are_given_the_rate_of_their_step(corpus, tmp_path):
    training = {"epochs": 2, "warmup_fraction": 0.5, "decay": "cosine", "learning_rate": 0.01}
    run, used = TrainingRun(tiny_settings(training=training), corpus, tmp_path), []
    for optimizer in run.stepper.optimizers.values():
        optimizer.register_step_pre_hook(lambda each, *_: used.append(each.param_groups[0]["lr"]))
    run.train_epoch(lambda: False)
    steps = run.num_batches
    expected = [0.01 * (step + 1) / steps for step in range(steps)]
    assert used[::2] == used[1::2] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        ({"model": {"posterior": "scaled"}, "objective": {"target_kl_nats": 2.0, "free_bits": "total"}}, "no sense"),
        ({"model": {"posterior": "none"}, "objective": {"target_kl_nats": 2.0}}, "none has none"),
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
