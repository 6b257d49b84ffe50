"""Training: resumed equals uninterrupted bit for bit, and every way to end."""

import copy
import json

import pytest
import torch
from conftest import tiny_settings
from studies import numbers, stop_after

from model.errors import ModelError
from model.weights import load_network
from study.errors import StudyError
from study.record.places import best_folder
from study.training import ranking
from study.training.checkpoints import KEPT, read_checkpoint
from study.training.devices import autocast, choose_device
from study.training.evaluation import score
from study.training.loop import Diverged, TrainingRun, train
from study.training.optimizers import clip_gradients, make_optimizers


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_training_stopped_anywhere_and_resumed_gives_what_uninterrupted_training_gives(corpus, tmp_path, optimizer):
    settings = tiny_settings(training={"optimizer": optimizer, "learning_rate": 0.02}, model={"word_dropout": 0.2})
    whole = list(train(settings, corpus, tmp_path / "whole"))
    rows = []
    for num_steps in (1, 7, 3, 10**6):
        rows += train(settings, corpus, tmp_path / "parts", rows_seen=len(rows), should_stop=stop_after(num_steps))
    assert numbers(rows) == numbers(whole)
    states = [read_checkpoint(max((tmp_path / name / "checkpoints").glob("step-*")))[1] for name in ("whole", "parts")]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_rows_that_a_caller_lost_are_yielded_again(corpus, tmp_path):
    settings = tiny_settings()
    rows = list(train(settings, corpus, tmp_path))
    assert numbers(train(settings, corpus, tmp_path)) == numbers(rows)
    assert numbers(train(settings, corpus, tmp_path, rows_seen=2)) == numbers(rows[2:])


def test_a_damaged_newest_checkpoint_gives_way_to_the_one_before(corpus, tmp_path):
    settings = tiny_settings()
    whole = list(train(settings, corpus, tmp_path / "whole"))
    part = train(settings, corpus, tmp_path / "part")
    rows = [next(part), next(part)]
    newest = max((tmp_path / "part/checkpoints").glob("step-*")) / "state.safetensors"
    newest.write_bytes(newest.read_bytes()[:-7])
    rows += train(settings, corpus, tmp_path / "part", rows_seen=2)
    assert numbers(rows) == numbers(whole)


def test_a_seed_repeats_and_another_does_not(corpus, tmp_path):
    first = list(train(tiny_settings(), corpus, tmp_path / "a"))
    assert numbers(train(tiny_settings(), corpus, tmp_path / "b")) == numbers(first)
    other = list(train(tiny_settings().with_values({"seed": 1}), corpus, tmp_path / "c"))
    assert other[0]["valid/nll"] != first[0]["valid/nll"]


def test_the_best_weights_are_those_of_the_best_epoch(corpus, tmp_path):
    settings = tiny_settings()
    rows = list(train(settings, corpus, tmp_path))
    best = min(rows, key=lambda row: row["valid/nll"])
    network = load_network(best_folder(tmp_path, best.number))
    again = score(network, corpus.split("valid"), num_samples=3, num_sequences=24, power=1.0).metrics(debiased=True)
    assert again["kl"] == best["valid/kl"]
    assert again["nll"] == pytest.approx(best["valid/nll"], abs=0.1)
    assert len(list((tmp_path / "checkpoints").iterdir())) == KEPT


def test_training_does_not_move_with_how_it_is_validated(corpus, tmp_path, monkeypatch):
    def losses(name, **evaluation):
        settings = tiny_settings(training={"epochs": 3}, evaluation=evaluation)
        return [row["train/loss"] for row in train(settings, corpus, tmp_path / name)]

    usual = losses("usual")
    assert losses("more", num_samples=9, num_sequences=None) == usual
    monkeypatch.setattr(ranking, "PILOT_POWERS", (1.0, 0.5))
    assert losses("other pilot") == usual


def test_validation_does_not_move_with_the_kl_weight_it_trains_with(corpus, tmp_path):
    run = TrainingRun(tiny_settings(objective={"kl_weight": 0.1}), corpus, tmp_path / "a")
    other = TrainingRun(tiny_settings(objective={"kl_weight": 1.0, "free_bits": "total"}), corpus, tmp_path / "b")
    sizes = {"num_samples": 4}
    assert (
        score(run.network, run.valid_split, **sizes).metrics()
        == score(other.network, other.valid_split, **sizes).metrics()
    )


def test_a_posterior_that_stays_collapsed_after_the_warm_up_ends_training(corpus, tmp_path):
    settings = tiny_settings(
        objective={"kl_weight": 100.0, "annealing": "linear", "annealing_fraction": 0.3},
        training={"epochs": 10, "learning_rate": 0.003},
        evaluation={"collapse_mi_nats": 0.1},
    )
    rows = list(train(settings, corpus, tmp_path))
    assert rows[-1].outcome == "collapsed"
    assert 4 <= len(rows) < 10
    assert rows[-1]["valid/kl"] < 0.1
    assert rows[-1]["valid/au"] == 0


def test_divergence_is_told_apart_from_a_crash(corpus, tmp_path):
    settings = tiny_settings(training={"optimizer": "sgd", "learning_rate": 1e30})
    with pytest.raises(Diverged, match="learning rate"):
        list(train(settings, corpus, tmp_path))


def test_the_learning_rate_is_halved_on_a_plateau_until_training_ends(corpus, tmp_path):
    settings = tiny_settings(
        training={
            "epochs": 40,
            "learning_rate": 0.05,
            "halving_patience": 1,
            "first_halving_epoch": 2,
            "max_halvings": 3,
        }
    )
    rows = list(train(settings, corpus, tmp_path))
    rates = [row["train/learning_rate"] for row in rows]
    assert rows[-1].outcome == "complete"
    assert len(rows) < 40
    assert sorted(set(rates), reverse=True) == pytest.approx([0.05, 0.025, 0.0125])


def test_early_stopping_ends_training(corpus, tmp_path):
    settings = tiny_settings(training={"epochs": 60, "learning_rate": 0.05, "early_stop_patience": 2})
    rows = list(train(settings, corpus, tmp_path))
    best = min(rows, key=lambda row: row["valid/nll"]).number
    assert len(rows) == best + 2


def test_encoder_and_decoder_have_optimisers_of_their_own(corpus, tmp_path):
    run = TrainingRun(tiny_settings(training={"optimizer": "sgd"}), corpus, tmp_path)
    made = make_optimizers(run.network, run.settings)
    held = {name: {id(p) for group in made[name].param_groups for p in group["params"]} for name in made}
    assert held["encoder"] == {id(p) for p in run.network.encoder.parameters()}
    assert held["decoder"] == {id(p) for p in run.network.decoder.parameters()}


def test_bfloat16_is_for_gpus():
    with pytest.raises(StudyError, match="CUDA"):
        choose_device(tiny_settings(training={"precision": "bfloat16"}).training)
    context = autocast(torch.device("cuda"), tiny_settings(training={"precision": "bfloat16"}).training)
    assert isinstance(context, torch.autocast)
    assert context.fast_dtype == torch.bfloat16


@pytest.mark.skipif(torch.cuda.is_available(), reason="about machines without a GPU")
def test_a_gpu_that_is_not_there_is_refused():
    with pytest.raises(StudyError, match="0 CUDA devices"):
        choose_device(tiny_settings(training={"device": "cuda"}).training)
    assert choose_device(tiny_settings().training).type == "cpu"


def test_a_folder_of_another_run_is_refused(corpus, tmp_path):
    list(train(tiny_settings(), corpus, tmp_path))
    with pytest.raises(StudyError, match="other settings"):
        list(train(tiny_settings(training={"epochs": 9}), corpus, tmp_path))


def test_a_model_folder_tells_its_faults(corpus, tmp_path):
    rows = list(train(tiny_settings(), corpus, tmp_path))
    folder = best_folder(tmp_path, min(rows, key=lambda row: row["valid/nll"]).number)
    weights, description = folder / "model.safetensors", folder / "model.json"
    stored = json.loads(description.read_text())
    stored["network"]["hidden_size"] = 99
    description.write_text(json.dumps(stored))
    with pytest.raises(ModelError, match="digest"):
        load_network(folder)
    # Of an older version, which wrote none.
    del stored["digest"], stored["digests"]
    description.write_text(json.dumps(stored))
    with pytest.raises(ModelError, match="another network"):
        load_network(folder)
    weights.write_bytes(b"\x80\x04not tensors")
    with pytest.raises(ModelError, match="safetensors"):
        load_network(folder)
    description.write_text("{}")
    with pytest.raises(ModelError, match="does not describe"):
        load_network(folder)


@pytest.mark.parametrize("largest_norm", [0.05, 1e9])
def test_gradients_of_few_words_move_a_network_as_those_of_all_words_do(corpus, tmp_path, largest_norm):
    settings = tiny_settings(training={"optimizer": "sgd", "learning_rate": 0.5})
    run = TrainingRun(settings, corpus, tmp_path)
    network, twin = run.network, copy.deepcopy(run.network)
    parts = (twin.encoder, twin.decoder)
    for part in parts:
        part.embedding.sparse = False
    usual = torch.optim.SGD([each for part in parts for each in part.parameters()], 0.5)
    tokens = torch.tensor([[1, 5, 6, 5, 2], [1, 7, 2, 0, 0]])
    lengths = torch.tensor([5, 3])
    for _ in range(3):
        for each in (network, twin):
            each.zero_grad()
            torch.manual_seed(0)
            posterior = each.encode(tokens, lengths)
            (each.reconstruction(tokens, lengths, posterior.mean).sum() + posterior.kl().sum()).backward()
        assert network.encoder.embedding.weight.grad.is_sparse
        norm = clip_gradients(network.parameters(), largest_norm)
        torch.testing.assert_close(norm, torch.nn.utils.clip_grad_norm_(twin.parameters(), largest_norm))
        for optimizer in run.stepper.optimizers.values():
            optimizer.step()
        usual.step()
    for name, weight in network.state_dict().items():
        torch.testing.assert_close(weight, twin.state_dict()[name])
