"""What a GPU asks of the code, shown without one: no waiting in a step, equal sums, batches at hand, shares that fit."""

import os

import numpy as np
import pytest
import torch
from conftest import tiny_settings

from data.batches import BatchOrder, collate, gather, iterate
from data.corpus import Split, runs
from model.config import NetworkSettings
from model.network.vae import SequenceVAE
from model.registry import POOLING_NAMES, POOLINGS_OF_ALL
from study.config.methods import METHODS
from study.errors import StudyError
from study.training import gpus
from study.training.devices import choose_device, limit_gpu_memory, tensors_fraction
from study.training.loop import TrainingRun
from study.training.step import StepGraphs, padded

GIB = 2**30
POSTERIORS = ("gaussian", "batch-norm", "delta", "von-mises-fisher", "none")


def run_on_nothing(settings, corpus, folder):
    """Training on meta tensors, which have no values: whatever asks for one raises."""
    run = TrainingRun(settings, corpus, folder)
    batch = next(iterate(run.train_split, run.batches()))
    run.device = run.stepper.device = torch.device("meta")
    run.network.to_empty(device="meta").train()
    run.stepper.multiplier, run.stepper.control = run.stepper.multiplier.to("meta"), run.stepper.control.to("meta")
    run.stepper.optimizers = {
        name: torch.optim.SGD(part.parameters(), 0.1)
        for name, part in (("encoder", run.network.encoder), ("decoder", run.network.decoder))
        if part is not None
    }
    for part in (run.network.encoder, run.network.decoder):
        if part is not None:
            part.embedding.sparse = False
    return run, batch.to(run.device)


def take_a_step_on_nothing(settings, corpus, folder):
    run, batch = run_on_nothing(settings, corpus, folder)
    sums = run.stepper(batch, 0.5)
    assert sums.device.type == "meta"
    assert all(each.grad is not None for each in run.network.decoder.parameters())


@pytest.mark.parametrize("method", [name for name in METHODS if name != "aggressive"])
def test_no_step_of_a_method_waits_for_its_device(corpus, tmp_path, method):
    take_a_step_on_nothing(tiny_settings().with_values({"method": method}), corpus, tmp_path)


@pytest.mark.parametrize(
    ("pooling", "bidirectional"),
    [*((name, False) for name in POOLINGS_OF_ALL), *((name, True) for name in POOLING_NAMES)],
)
def test_no_step_with_a_pooling_waits_for_its_device(corpus, tmp_path, pooling, bidirectional):
    settings = tiny_settings(model={"pooling": pooling, "word_dropout": 0.3, "bidirectional": bidirectional})
    take_a_step_on_nothing(settings, corpus, tmp_path)


def test_learned_positions_reach_as_far_as_recorded_steps_are_padded(corpus, tmp_path):
    run = TrainingRun(tiny_settings(model={"encoder": "transformer", "positions": "learned"}), corpus, tmp_path)
    longest = padded(corpus.longest)
    assert longest % 8 == 0
    assert longest >= corpus.longest
    tokens = torch.full((1, longest), 4)
    run.network.encode(tokens, torch.tensor([longest]))


@pytest.mark.parametrize("kind", ["gru", "transformer"])
def test_no_step_of_a_network_waits_for_its_device(corpus, tmp_path, kind):
    layers = {
        "encoder": kind,
        "decoder": kind,
        "num_encoder_layers": 2,
        "num_decoder_layers": 2,
        "positions": "learned",
    }
    take_a_step_on_nothing(tiny_settings(model=layers), corpus, tmp_path)


@pytest.mark.parametrize("posterior", POSTERIORS)
def test_no_step_with_a_posterior_waits_for_its_device(corpus, tmp_path, posterior):
    take_a_step_on_nothing(tiny_settings(model={"posterior": posterior}), corpus, tmp_path)


def test_aggressive_training_waits_for_its_rule_and_for_nothing_else(corpus, tmp_path):
    run, batch = run_on_nothing(tiny_settings().with_values({"method": "aggressive"}), corpus, tmp_path)
    run.stepper(batch, 0.5, ("encoder",))
    with pytest.raises(RuntimeError, match="meta"):
        run.step(batch)


@pytest.mark.parametrize("words", [0.0, 0.4])
def test_losses_summed_over_all_places_are_those_summed_over_targets(words):
    torch.manual_seed(0)
    model = SequenceVAE(NetworkSettings(embedding_size=4, hidden_size=6, latent_size=2, word_dropout=words), 9)
    tokens, lengths = torch.tensor([[1, 5, 6, 7, 2], [1, 8, 2, 0, 0]]), torch.tensor([5, 3])
    hidden = torch.randn(2, 4, 6, requires_grad=True)
    targets = tokens[:, 1:]
    found, expected = (
        sum_losses(hidden, targets, lengths)
        for sum_losses in (model.decoder.sum_of_all_places, model.decoder.sum_of_targets)
    )
    torch.testing.assert_close(found, expected)
    upstream = torch.tensor([1.0, -2.0])
    by_found, by_expected = (torch.autograd.grad((each * upstream).sum(), hidden)[0] for each in (found, expected))
    torch.testing.assert_close(by_found, by_expected)


def split_of(sequences, num_shards):
    import pyarrow as pa

    def shard(part):
        tokens = pa.array([each.tolist() for each in part], pa.list_(pa.int32()))
        return pa.record_batch({"tokens": tokens, "num_bytes": pa.array([1] * len(part), pa.int64())})

    return Split("train", [shard(sequences[place::num_shards]) for place in range(num_shards)])


@pytest.mark.parametrize("num_shards", [1, 3])
def test_a_batch_holds_the_sequences_asked_for_whatever_the_shards(num_shards):
    draw = np.random.default_rng(0)
    sequences = [draw.integers(4, 30, draw.integers(0, 9)).astype(np.int32) for _ in range(50)]
    split = split_of(sequences, num_shards)
    indices = draw.permutation(50)[:17]
    batch, plain = gather(split, indices), collate([split.sequence(int(index)) for index in indices], indices)
    assert torch.equal(batch.tokens, plain.tokens)
    assert torch.equal(batch.lengths, plain.lengths)
    for row, index, length in zip(batch.tokens.tolist(), indices, batch.lengths.tolist(), strict=True):
        assert row[:length] == [1, *split.sequence(int(index)).tolist(), 2]
        assert set(row[length:]) <= {0}
    assert gather(split, np.empty(0, np.int64)).tokens.shape == (0, 2)


def test_runs_are_whole_numbers_from_each_start_on():
    assert runs(np.array([7, 0, 3]), np.array([2, 0, 3])).tolist() == [7, 8, 3, 4, 5]
    assert runs(np.array([], np.int64), np.array([], np.int64)).tolist() == []


@pytest.mark.parametrize("ahead", [1, 2, 100])
def test_batches_made_ahead_are_the_same_in_the_same_order(corpus, ahead):
    split = corpus.split("train")
    batches = BatchOrder(split.lengths, 16).epoch(0)
    usual, early = list(iterate(split, batches, 2)), list(iterate(split, batches, 2, ahead))
    assert len(usual) == len(early) == len(batches) - 2
    assert all(torch.equal(one.tokens, other.tokens) for one, other in zip(usual, early, strict=True))


def test_a_batch_that_cannot_be_made_ahead_raises_where_it_is_asked_for(corpus):
    split = corpus.split("train")
    batches = [np.array([0]), np.array([10**6])]
    found = iterate(split, batches, 0, 2)
    with pytest.raises(IndexError):
        list(found)
    # One that nobody goes on with leaves no thread behind that keeps the process.
    unfinished = iterate(split, BatchOrder(split.lengths, 16).epoch(0), 0, 2)
    next(unfinished)
    unfinished.close()


def test_a_trial_without_a_share_of_a_gpu_trains_on_the_cpu(monkeypatch):
    auto = tiny_settings(training={"device": "auto"}).training
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device(auto, 0.0).type == "cpu"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    assert choose_device(auto, 0.25).type == "cuda"
    assert choose_device(auto).type == "cuda"


def test_a_trial_with_a_share_of_a_gpu_that_pytorch_does_not_see_says_so(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(StudyError, match=r"PyTorch .* shows none"):
        choose_device(tiny_settings(training={"device": "auto"}).training, 0.25)


def test_tensors_get_their_share_but_for_what_cuda_takes(monkeypatch):
    assert tensors_fraction(0.25, 80 * GIB) == pytest.approx((20 - 0.5) / 80)
    with pytest.raises(StudyError, match=r"less than the 0\.5 GiB"):
        tensors_fraction(0.05, 8 * GIB)
    said = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda place: type("Card", (), {"total_memory": 80 * GIB}))
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", said.append)
    for share in (0.0, 0.25, 1.0):
        limit_gpu_memory(share)
    assert said == [pytest.approx(19.5 / 80)]


@pytest.mark.parametrize(
    ("memory", "needed", "trials", "cpus", "cpu_a_trial", "on_one"),
    [
        ((80,), 1, 100, 64, 1.0, 16),  # no more than that wait for each other
        ((80,), 10, 100, 64, 1.0, 7),  # of memory, 95 % of it
        ((80,), 1, 100, 8, 1.0, 8),  # a CPU each
        ((80,), 1, 100, 8, 2.0, 4),
        ((80, 80), 1, 100, 8, 1.0, 4),  # CPUs are shared by the GPUs
        ((80, 80), 1, 6, 64, 1.0, 3),  # no emptier than the trials
        ((80, 24), 10, 100, 64, 1.0, 2),  # the smallest GPU decides
        ((8,), 20, 100, 64, 1.0, 1),  # at least one, whatever the estimate
    ],
)
def test_a_share_is_what_memory_cpus_and_trials_leave(monkeypatch, memory, needed, trials, cpus, cpu_a_trial, on_one):
    monkeypatch.setattr(gpus, "num_cpus", lambda: cpus)
    memory = tuple(each * GIB for each in memory)
    share = gpus.choose_share(memory, needed * GIB, trials, cpu_a_trial)
    assert gpus.Sharing(memory, share, needed * GIB).on_one == on_one
    assert gpus.slots(len(memory), share) == on_one * len(memory)
    assert share * on_one <= 1.0


def test_without_a_gpu_a_share_is_none_and_one_asked_for_is_refused():
    assert gpus.choose_share((), GIB, 10, 1.0) == 0.0
    with pytest.raises(StudyError, match="shows 0 GPUs"):
        gpus.check_share(0.5, 0)
    with pytest.raises(StudyError, match="at most 1"):
        gpus.check_share(1.5, 4)
    gpus.check_share(0.0, 0)


def test_a_share_that_does_not_divide_one_leaves_the_rest_of_each_gpu_empty():
    # Ray puts a trial on one GPU: of 8 with 0.7 taken, 8 run at once, not 11.
    assert gpus.slots(8, 0.7) == 8
    assert gpus.slots(8, 0.3333) == 24


@pytest.fixture
def two_gpus(monkeypatch, tmp_path):
    """A machine of 64 CPUs with two GPUs, as far as planning can tell."""
    monkeypatch.setattr(gpus, "DRIVERS", (str(tmp_path),))
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(64)))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda place: type("Card", (), {"total_memory": 80 * GIB}))


def test_a_study_takes_a_share_by_itself_and_says_which_and_how_to_change_it(two_gpus, call, corpus, tmp_path):
    options = ("run", corpus.folder, "--preset", "quick", "--trials", "12", "--storage", tmp_path, "--dry-run")
    code, out, _ = call(*options)
    assert code == 0
    assert "6 trials on each of 2 GPUs of 80 GiB, 13.3 GiB a trial" in " ".join(out.split())
    assert "--gpus-per-trial 0.1666" in out
    assert "12 at once" in " ".join(out.split())
    code, out, _ = call(*options, "--concurrent", "2")
    assert "1 trial on each of 2 GPUs" in " ".join(out.split())
    code, out, _ = call(*options, "--gpus-per-trial", "0.5")
    assert "4 at once" in out
    assert "2 trials on each of 2 GPUs" in out
    code, out, _ = call(*options, "--gpus-per-trial", "0")
    assert code == 0
    assert "GPU" not in out
    code, out, _ = call(*options, "--set", "training.device=cpu")
    assert code == 0
    assert "GPU" not in out


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--gpus-per-trial", "2"), "at most 1"),
        (("--gpus-per-trial", "0", "--set", "training.device=cuda"), "given no GPU"),
        (("--gpus-per-trial", "0.5", "--set", "training.device=cpu"), "leave out one of them"),
    ],
)
def test_a_share_and_a_device_that_contradict_each_other_are_refused(two_gpus, call, corpus, tmp_path, more, words):
    code, out, err = call("run", corpus.folder, "--preset", "quick", "--storage", tmp_path, "--dry-run", *more)
    assert code == 1
    assert words in err
    assert not out


def test_the_memory_estimate_is_above_what_weights_and_logits_alone_take(corpus):
    sizes = {
        "model.hidden_size": 1024,
        "model.embedding_size": 512,
        "model.latent_size": 32,
        "model.num_encoder_layers": 1,
        "model.num_decoder_layers": 1,
        "model.bidirectional": 0,
        "training.batch_size": 32,
        "training.max_batch_tokens": 0,
        "evaluation.max_decoder_tokens": 1000,
    }
    vocabulary, longest = 20_000, 200
    weights = 16 * vocabulary * (2 * 512 + 1024)
    logits = 12 * 32 * longest * vocabulary
    estimated = gpus.needed_bytes(sizes.__getitem__, vocabulary, longest)
    assert weights + logits < estimated < 4 * (weights + logits)
    # More of anything is never less.
    for name, value in sizes.items():
        more = sizes | {name: 2 * value + 1}
        assert gpus.needed_bytes(more.__getitem__, vocabulary, longest) >= estimated


def train_by_graphs(settings, corpus, folder, recorded):
    """Training whose steps go the way of recorded ones; what a GPU would record is called again."""
    run = TrainingRun(settings, corpus, folder)
    stepper = run.stepper
    stepper.weight = torch.zeros(())
    parts = tuple(stepper.optimizers)

    def record(work, tokens, lengths):
        recorded.append(tuple(tokens.shape))
        return work

    stepper.graphs = StepGraphs(lambda tokens, lengths: stepper.work(tokens, lengths, stepper.weight, parts), record)
    run.train_epoch(lambda: False)
    return run.finish_epoch()


@pytest.mark.parametrize("pooling", ["last", "mean", "max", "attention"])
def test_recorded_steps_train_as_plain_ones_do(corpus, tmp_path, pooling):
    # Without dropout: its masks have the shape of a batch, which padding changes.
    model = {"pooling": pooling, "input_dropout": 0.0, "output_dropout": 0.0}
    settings = tiny_settings(model=model, objective={"annealing": "linear", "annealing_fraction": 0.5})
    plain = TrainingRun(settings, corpus, tmp_path / "plain")
    plain.train_epoch(lambda: False)
    expected, recorded = plain.finish_epoch(), []
    found = train_by_graphs(settings, corpus, tmp_path / "graphs", recorded)
    for name in ("train/loss", "train/kl", "valid/nll", "valid/kl"):
        assert found[name] == pytest.approx(expected[name], rel=1e-4, abs=1e-6)
    assert recorded
    assert all(time == padded(time) for _, time in recorded)
    assert len(set(recorded)) == len(recorded)


def test_new_optimisers_forget_recorded_steps_and_keep_the_learning_rate_they_are_given(corpus, tmp_path):
    stepper = TrainingRun(tiny_settings(), corpus, tmp_path).stepper
    stepper.graphs = StepGraphs(print, print)
    stepper.renew_optimizers()
    assert stepper.graphs is None
    for optimizer in stepper.optimizers.values():
        optimizer.param_groups[0]["lr"] = torch.tensor(1.0)
        held = optimizer.param_groups[0]["lr"]
        stepper.set_learning_rate(0.25)
        assert optimizer.param_groups[0]["lr"] is held
        assert float(held) == 0.25


@pytest.mark.parametrize(
    "tables",
    [
        {"model": {"bidirectional": True}},
        {"model": {"refinement_steps": 2}},
        {"training": {"procedure": "aggressive"}},
        {"training": {"max_batch_tokens": 500}},
    ],
)
def test_steps_that_differ_are_not_recorded(tables):
    training = {"cuda_graph": True} | tables.get("training", {})
    with pytest.raises(StudyError, match="all alike"):
        tiny_settings(**tables | {"training": training})
