"""Optuna's database on a server that may be restarted while a study runs."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import sqlalchemy.exc
import tenacity
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage

RESTART_SECONDS = 300.0
"""How long a server that went away is waited for."""


class RetryingStorage(RDBStorage):
    """Optuna's storage, each of whose transactions is tried again until a server that went away is back."""

    def __init__(self, url: str, *, writing: bool = True) -> None:
        """Connect to a server; a connection for reading refuses every change, where it is PostgreSQL's."""
        options: dict[str, Any] = {"pool_pre_ping": True}
        if not writing and url.startswith("postgresql"):
            options["connect_args"] = {"options": "-c default_transaction_read_only=on"}
        super().__init__(url, engine_kwargs=options, skip_table_creation=not writing)


def retrying(transaction: Callable[..., Any]) -> Callable[..., Any]:
    """Return a method that tries a transaction again: one that the server did not commit has done nothing."""

    @wraps(transaction)
    def again(self: RetryingStorage, *arguments: Any, **options: Any) -> Any:
        retry = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type((StorageInternalError, sqlalchemy.exc.OperationalError)),
            stop=tenacity.stop_after_delay(RESTART_SECONDS),
            wait=tenacity.wait_fixed(1.0),
            reraise=True,
        )
        return retry(transaction, self, *arguments, **options)

    return again


for _name in (
    "_create_new_trial",
    "_set_trial_param",
    "_get_trials",
    "set_trial_state_values",
    "set_trial_intermediate_value",
    "set_trial_user_attr",
    "set_trial_system_attr",
    "get_trial",
    "get_study_directions",
    "get_study_user_attrs",
    "get_study_system_attrs",
    "set_study_system_attr",
):
    setattr(RetryingStorage, _name, retrying(getattr(RDBStorage, _name)))
