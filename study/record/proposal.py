"""A trial's values drawn before anything of it is stored, so that a kill leaves it whole or not there at all.

Optuna makes a trial's row first and stores its values one by one as they are asked for. Here an Optuna trial draws them
on a storage that keeps the new trial in memory, and the finished trial is then stored in one transaction.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Container, Mapping, Sequence

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from data.files import sealed
from study.config.settings import Params
from study.search.space import SearchSpace

NEW = -1
"""The id of a trial that no storage has."""
FIXED = "fixed_params"
"""Optuna's name for the values that an enqueued trial is to have."""
ASKED = "asked"
"""The attribute of a trial under which lie the values that were asked for; what they leave open a sampler adds."""
OUTSIDE = "outside"
"""The attribute of a trial under which lie the values that it is to have outside the space: no sampler knows them."""
VALUES_DIGEST = "values_digest"
"""The attribute of a trial that is stored with its values at once, and tells whether they are still those."""
OF_STUDY = "notes_of_study"
"""The attribute of a trial under which lies what its sampler noted of the study when the trial was drawn."""


class WithNewTrial:
    """Optuna's storage, and beside it one trial in memory: what a sampler notes while it draws it stays there.

    The sampler does not see the trials `hidden`, by number, and sees those `learned` elsewhere as if they were here.
    """

    def __init__(
        self,
        storage: optuna.storages.BaseStorage,
        trial: FrozenTrial,
        hidden: Collection[int] = (),
        learned: Sequence[FrozenTrial] = (),
    ) -> None:
        self._storage = storage
        self.trial = trial
        self.hidden, self.learned = hidden, learned
        self.notes: dict[str, object] = {}

    def __getattr__(self, name: str) -> object:
        return getattr(self._storage, name)

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """Return a trial."""
        return self.trial if trial_id == NEW else self._storage.get_trial(trial_id)

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """Return the trials that the sampler may know."""
        found = self._storage.get_all_trials(study_id, deepcopy=deepcopy, states=states)
        learned = [trial for trial in self.learned if states is None or trial.state in states]
        return [*(trial for trial in found if trial.number not in self.hidden), *learned]

    def set_trial_param(self, trial_id: int, name: str, value: float, distribution: BaseDistribution) -> None:
        """Keep a value of the new trial."""
        assert trial_id == NEW
        self.trial.params[name] = distribution.to_external_repr(value)
        self.trial.distributions[name] = distribution

    def set_trial_system_attr(self, trial_id: int, key: str, value: object) -> None:
        """Keep what a sampler notes of the new trial."""
        assert trial_id == NEW
        self.trial.system_attrs[key] = value

    def set_study_system_attr(self, study_id: int, key: str, value: object) -> None:
        """Keep what a sampler notes of the study with the new trial, until both are stored."""
        self.notes[key] = value

    def get_study_system_attrs(self, study_id: int) -> dict[str, object]:
        """Return what samplers noted of the study."""
        return self._storage.get_study_system_attrs(study_id) | self.notes


def draw(
    study: optuna.Study,
    sampler: optuna.samplers.BaseSampler,
    space: SearchSpace,
    number: int,
    fixed: Mapping[str, object],
    *,
    outside: Params | None = None,
    hidden: Collection[int] = (),
    learned: Sequence[FrozenTrial] = (),
) -> FrozenTrial:
    """Return a trial with every value that applies, as trial `number` of the study would be given them; store nothing.

    `fixed` values are as they are, and so are those `outside` the space. It waits to be run. The sampler does not know
    the trials `hidden`, and knows those `learned` from another study.
    """
    trial = create_trial(state=TrialState.WAITING, system_attrs={FIXED: dict(fixed)} if fixed else {})
    trial.number, trial._trial_id = number, NEW
    storage = WithNewTrial(study._storage, trial, hidden, learned)
    # A copy, whose list of trials is read anew.
    view = copy.copy(study)
    view._storage = storage  # type: ignore[assignment]
    view.sampler = sampler
    space.suggest(optuna.Trial(view, NEW), planned=fixed, outside=outside)
    if storage.notes:
        trial.system_attrs[OF_STUDY] = storage.notes
    trial.user_attrs[VALUES_DIGEST] = digest_of_values(trial.params)
    return trial


def asked_of(trial: FrozenTrial) -> Params:
    """Return the values that a trial was enqueued with, none of one that a sampler proposed."""
    return dict(trial.user_attrs.get(ASKED) or trial.system_attrs.get(FIXED, {}))


def values_of(trial: FrozenTrial | optuna.Trial) -> Params:
    """Return every value that a trial was given: of the space, and outside it."""
    return dict(trial.params) | dict(trial.user_attrs.get(OUTSIDE, {}))


def digest_of_values(values: Params) -> str:
    """Return a digest of a trial's searched values."""
    return str(sealed(values)["digest"])


def store(study: optuna.Study, trial: FrozenTrial) -> None:
    """Store a drawn trial in one transaction, then what its sampler noted of the study."""
    study.add_trial(trial)
    pass_on_notes(study, trial)


def pass_on_notes(study: optuna.Study, trial: FrozenTrial) -> None:
    """Store what a trial's sampler noted of the study, unless it is stored already: a kill may have come between."""
    known = study._storage.get_study_system_attrs(study._study_id)
    for key, value in trial.system_attrs.get(OF_STUDY, {}).items():
        if known.get(key) != value:
            study._storage.set_study_system_attr(study._study_id, key, value)
