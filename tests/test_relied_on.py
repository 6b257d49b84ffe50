"""What the code relies on of Optuna and Ray beyond their documents: a release that changes it is found here."""

import inspect

import pytest
from optuna.storages import RDBStorage

from study.record.retrying import RetryingStorage

WRAPPED = {
    "_create_new_trial": ["self", "study_id", "template_trial"],
    "_set_trial_param": None,
    "_get_trials": None,
    "set_trial_state_values": ["self", "trial_id", "state", "values"],
    "set_trial_intermediate_value": ["self", "trial_id", "step", "intermediate_value"],
    "set_trial_user_attr": ["self", "trial_id", "key", "value"],
    "set_trial_system_attr": ["self", "trial_id", "key", "value"],
    "get_trial": ["self", "trial_id"],
    "get_study_directions": ["self", "study_id"],
    "get_study_user_attrs": ["self", "study_id"],
    "get_study_system_attrs": ["self", "study_id"],
    "set_study_system_attr": ["self", "study_id", "key", "value"],
}
"""Each is one transaction, so that it can be tried again; with its parameters where the code names them."""


@pytest.mark.parametrize("name", WRAPPED)
def test_optunas_storage_has_the_transactions_that_are_tried_again(name):
    method = getattr(RDBStorage, name)
    assert getattr(RetryingStorage, name).__wrapped__ is method
    if WRAPPED[name] is not None:
        assert list(inspect.signature(method).parameters) == WRAPPED[name]


def test_optunas_storage_opens_no_transaction_that_is_not_tried_again():
    # Those that a study's trials and readers never come through.
    others = {
        "create_new_study", "delete_study", "set_study_user_attr", "get_study_id_from_name", "get_study_name_from_id",
        "get_all_studies", "get_trial_id_from_study_id_trial_number", "get_trial_number_from_id", "get_best_trial",
        "get_trial_param",
        "get_trial_user_attrs",
        "get_trial_system_attrs",
        "_get_best_trial_id", "record_heartbeat", "_get_stale_trial_ids", "__init__",
        "_check_and_set_param_distribution", "_check_or_set_param_distribution",
    }  # fmt: skip
    source = {
        name: inspect.getsource(method) for name, method in vars(RDBStorage).items() if inspect.isfunction(method)
    }
    transactions = {name for name, text in source.items() if "_create_scoped_session(" in text}
    assert transactions - set(WRAPPED) <= others


def test_rays_actor_manager_reports_a_failed_task_where_the_code_listens():
    from ray.air.execution._internal.actor_manager import RayActorManager

    parameters = list(inspect.signature(RayActorManager._actor_task_failed).parameters)
    assert parameters == ["self", "tracked_actor_task", "exception"]
    source = inspect.getsource(RayActorManager._actor_task_failed)
    # An error that is neither of these ends the study: what the wrapper turns into one of them.
    assert "RayActorError" in source
    assert "RayTaskError" in source


def test_tune_tells_a_dead_worker_first_and_its_task_after():
    from ray.air.execution._internal.actor_manager import RayActorManager
    from ray.tune.execution.tune_controller import TuneController

    assert list(inspect.signature(TuneController._trial_task_failure).parameters) == ["self", "trial", "exception"]
    told = inspect.getsource(RayActorManager._actor_task_failed)
    assert told.index("tracked_actor._on_error(") < told.index("tracked_actor_task._on_error(")
    # Of a worker whose trial waits, the first word is enough.
    assert "self._trial_task_failure(trial" in inspect.getsource(TuneController._actor_failed)
    assert "_resetting_trials" in inspect.getsource(TuneController._maybe_reuse_cached_actor)


def test_tunes_trial_counts_its_failures_where_the_code_gives_them_back():
    from ray.tune.callback import Callback
    from ray.tune.experiment.trial import Trial

    assert "self.run_metadata.num_failures <= self.max_failures" in inspect.getsource(Trial.should_recover)
    assert list(inspect.signature(Callback.on_trial_recover).parameters) == [
        "self",
        "iteration",
        "trials",
        "trial",
        "info",
    ]
