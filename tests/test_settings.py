"""Settings and the search space: round trips, what is fixed and what is searched."""

import math

import optuna
import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st
from studies import row

from study.config.run_options import RunOptions
from study.config.settings import (
    Settings,
    flatten,
    nest,
    parse_assignment,
    preset_names,
    read_preset,
    setting_names,
    validate,
)
from study.epoch import NO_EPOCH
from study.errors import StudyError
from study.search.objective import Goal, pareto_front
from study.search.ranges import Range
from study.search.samplers import SAMPLER_NAMES, make_sampler
from study.search.space import SearchSpace, build_space
from study.search.usual import CONDITIONS, OPTIONAL, SEARCHED


@given(
    st.builds(
        dict,
        seed=st.integers(0, 2**31),
        model=st.fixed_dictionaries({"latent_size": st.integers(1, 99), "pooling": st.sampled_from(["max", "last"])}),
        objective=st.fixed_dictionaries(
            {"kl_weight": st.floats(0, 1), "free_bits": st.sampled_from(["none", "total"])}
        ),
    )
)
def test_settings_survive_dict_toml_and_dotted_names(tables):
    import tomllib

    settings = validate(tables)
    assert validate(settings.model_dump()) == settings
    assert validate(nest(flatten(settings.model_dump()))) == settings
    assert validate(tomllib.loads(tomli_w.dumps(settings.model_dump(exclude_none=True)))) == settings


def test_every_setting_of_the_search_exists():
    for name in (*SEARCHED, *OPTIONAL, *CONDITIONS, *(other for others in CONDITIONS.values() for other in others)):
        assert name in setting_names()


def test_assignments_have_tomls_types():
    assert parse_assignment("model.latent_size=16") == ("model.latent_size", 16)
    assert parse_assignment("model.pooling = max") == ("model.pooling", "max")
    assert parse_assignment("model.bidirectional=true") == ("model.bidirectional", True)


def test_given_settings_are_fixed_and_the_others_searched():
    space = build_space([{"model": {"pooling": "mean"}}, {"training": {"epochs": 3}}])
    assert space.fixed.model.pooling == "mean"
    assert set(space.ranges) == set(SEARCHED) - {"model.pooling"}


def test_later_layers_win_whether_they_fix_or_search():
    preset = {"model": {"pooling": "mean"}, "search": {"model.latent_size": [2, 4]}}
    config = {"search": {"model.pooling": ["last", "max"], "objective.annealing": False}}
    space = build_space([preset, config, {"model": {"latent_size": 7}}], also=("training.learning_rate",))
    assert space.ranges["model.pooling"].values == ("last", "max")
    assert space.fixed.model.latent_size == 7
    assert {"model.latent_size", "objective.annealing"}.isdisjoint(space.ranges)
    assert "training.learning_rate" in space.ranges


def test_a_space_survives_json():
    space = build_space([{"model": {"pooling": "max"}}], also=("training.learning_rate",))
    again = SearchSpace.from_json(space.to_json())
    assert again.fixed == space.fixed
    assert again.ranges == space.ranges


@pytest.mark.parametrize("name", SAMPLER_NAMES)
def test_every_sampler_proposes_valid_settings_with_conditions_kept(name):
    space, goal = build_space([]), Goal()
    study = optuna.create_study(sampler=make_sampler(name, space, goal, 0, 0))
    kinds = set()
    for number in range(14):
        study.sampler = make_sampler(name, space, goal, 0, number)
        trial = study.ask()
        values = space.suggest(trial)
        space.settings(values)
        kinds.add(values["objective.annealing"])
        assert ("objective.num_cycles" in values) == values["objective.annealing"].startswith("cyclical")
        assert ("objective.annealing_fraction" in values) == (values["objective.annealing"] != "constant")
        study.tell(trial, float(number % 5))
    assert len(kinds) > 1


def test_a_sampler_goes_on_after_a_restart_as_it_would_have():
    space, goal = build_space([]), Goal()

    def propose(number):
        return space.suggest(optuna.create_study(sampler=make_sampler("random", space, goal, 5, number)).ask())

    assert propose(3) == propose(3)
    assert propose(3) != propose(4)


def test_the_points_of_a_grid_are_distinct_and_leave_out_what_does_not_apply():
    ranges = {
        "objective.annealing": ["constant", "cyclical"],
        "objective.num_cycles": [2, 3],
        "model.pooling": ["max", "last"],
        "model.latent_size": False,
        "objective.kl_weight": False,
        "objective.annealing_fraction": False,
    }
    points = build_space([{"search": ranges}]).grid()
    assert len(points) == len({tuple(sorted(point.items())) for point in points}) == 2 * (1 + 2)


def test_whole_ends_of_a_fraction_do_not_make_it_whole():
    space = build_space([{"search": {"objective.kl_weight": {"low": 0, "high": 1}}}])
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    weights = {space.suggest(study.ask())["objective.kl_weight"] for _ in range(5)}
    assert len(weights) == 5


def test_any_seed_will_do():
    make_sampler("tpe", build_space([]), Goal(), 2**31 + 7, 5)


def test_an_optional_setting_of_a_preset_can_be_taken_back():
    name, value = parse_assignment("training.num_sequences=unset")
    preset = {key: table for key, table in read_preset("quick").items() if key != "study"}
    space = build_space([preset, nest({name: value})])
    assert space.fixed.training.num_sequences is None


def test_a_grid_has_every_point():
    assert Range(values=(4, 8)).grid() == [4, 8]
    assert Range(low=1, high=4).grid() == [1, 2, 3, 4]
    assert Range(low=1e-4, high=1e-1, log=True).grid() == pytest.approx([1e-4, 1e-3, 1e-2, 1e-1])


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_is_valid_and_its_head_tells_what_it_is(name):
    layer = read_preset(name)
    options = RunOptions.resolve(layer.pop("study", {}))
    space = build_space([layer])
    assert options.trials >= 12
    assert "model.pooling" in space.ranges
    from study.config.settings import PRESETS

    head = (PRESETS / f"{name}.toml").read_text().split("\n[")[0]
    assert all(line.startswith("#") or not line for line in head.splitlines())
    assert "Costs:" in head
    assert "Expect:" in head
    assert f"--preset {name}" in head


def test_a_winner_must_not_be_collapsed_and_reaches_its_floors():
    goal = Goal("nll", (("au", 2.0),), 0.1)
    best = row(1, kl=0.5, au=2).with_metrics({"valid/mi": 0.4, "valid/mi_se": 0.01})
    assert goal.is_feasible(best)
    assert not goal.is_feasible(best.with_metrics({"valid/au": 1}))
    assert not Goal().is_feasible(best.with_metrics({"valid/mi": 0.05}))
    assert Goal().is_feasible(best.with_metrics({"valid/mi": 0.05, "valid/mi_se": 0.03}))
    assert not Goal().is_feasible(NO_EPOCH)
    assert goal.constraints(best.with_metrics({"valid/au": 0, "valid/mi": 0.04})) == pytest.approx(
        {"not collapsed": 0.04, "au floor": 2.0}
    )
    assert Goal.from_json(goal.to_json()) == goal


def test_the_sampler_learns_what_collapses():
    """Of two poolings, one collapses with the better nll: constrained TPE must turn to the other."""
    space, goal = build_space([{"objective": {"annealing": "constant"}}]), Goal()
    study = optuna.create_study(sampler=make_sampler("tpe", space, goal, 0, 0))
    late = []
    for number in range(60):
        study.sampler = make_sampler("tpe", space, goal, 0, number)
        trial = study.ask()
        values = space.suggest(trial)
        weight = values["objective.kl_weight"]
        kl = 0.0 if weight > 0.5 else 1.0
        best = row(1, 10.0 - weight, kl=kl, au=int(kl))
        for name, violation in goal.constraints(best).items():
            trial.set_constraint(name, violation)
        study.tell(trial, goal.values(best))
        late.append(weight)
    share = sum(0.3 < weight <= 0.5 for weight in late[30:]) / 30
    assert share > 0.4  # at random, 0.22
    assert study.best_trial.params["objective.kl_weight"] <= 0.5


def test_pareto_front_by_hand():
    import numpy as np

    points = np.array([[1.0, 5.0], [2.0, 3.0], [2.0, 4.0], [3.0, 3.0], [4.0, 1.0], [1.0, 5.0]])
    assert pareto_front(points).tolist() == [True, True, False, False, True, True]


def test_defaults_are_the_modern_set_and_the_fields_set_can_be_said():
    assert Settings().training.optimizer == "adamw"
    field = validate({name: table for name, table in read_preset("ptb").items() if name not in ("study", "search")})
    assert (field.training.optimizer, field.training.learning_rate, field.model.init) == ("sgd", 1.0, "uniform")
    assert (field.model.embedding_size, field.model.hidden_size, field.model.latent_size) == (256, 256, 32)


def test_a_wrong_range_is_refused_before_anything_runs():
    with pytest.raises(StudyError, match=r"model.latent_size"):
        build_space([{"search": {"model.latent_size": [0, 8]}}])


def test_rungs_wait_for_the_slowest_method_that_is_searched():
    training = {"epochs": 20}
    alone = build_space([{"training": training, "method": "annealing"}])
    several = build_space([{"training": training, "search": {"method": ["annealing", "autoencoder", "cyclical"]}}])
    slowest = several.settings({"method": "autoencoder"})
    assert slowest.training.pretraining_epochs > 0
    warm_up = math.ceil(slowest.objective.annealing_fraction * 20)
    assert alone.warm_epoch() < several.warm_epoch() == slowest.training.pretraining_epochs + warm_up
    assert several.most_epochs() == slowest.training.pretraining_epochs + 20
