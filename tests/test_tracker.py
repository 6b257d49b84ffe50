"""MLflow's copy of the record: the same whatever happened on the way to it."""

import mlflow
import pytest
from studies import definition, row

from study.record.ledger import Ledger
from study.record.states import State
from study.record.trials import make_record
from study.tracking.tracker import Tracker


def test_an_epoch_whose_answer_was_lost_is_not_there_twice(corpus, tmp_path, monkeypatch):
    """A server that goes away while it answers has taken what it was sent, which is then sent again."""
    taken = mlflow.MlflowClient.log_batch
    lost = []

    def lose_each_first_answer(client, run_id, **batch):
        taken(client, run_id, **batch)
        sent = {(each.key, getattr(each, "step", None)) for each in batch.get("metrics", batch.get("params"))}
        if sent not in lost:
            lost.append(sent)
            raise ConnectionError("the answer was lost")

    monkeypatch.setattr(mlflow.MlflowClient, "log_batch", lose_each_first_answer)
    monkeypatch.setattr("study.tracking.tracker.RETRY_SECONDS", 0.01)
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    ledger = Ledger.create(tmp_path / "one", definition(corpus=str(corpus.folder), tracking_uri=uri))
    number, params = ledger.ask()
    for epoch in (1, 2, 3):
        ledger.add_row(number, row(epoch))
    rows = ledger.rows(number)
    problems = []
    tracker = Tracker(ledger, problems.append)
    tracker.start()
    tracker.wait_until_ready()
    tracker.update(make_record(ledger.definition, number, State.COMPLETE, "", params, rows))
    assert tracker.close(State.COMPLETE, {"num/trials": 1.0}, "", [], None)
    assert len(problems) == len(lost) == 4  # settings, epochs, the trial's end, the study's
    client = mlflow.MlflowClient(uri)
    run_id = ledger.run_ids()[str(number)]
    assert client.get_run(run_id).info.status == "FINISHED"
    history = client.get_metric_history(run_id, "valid/nll")
    assert [metric.step for metric in history] == [1, 2, 3]
    assert [metric.timestamp / 1000 for metric in history] == [pytest.approx(each.recorded_at) for each in rows]
    assert len(client.get_metric_history(run_id, "best/nll")) == 1
    assert len(client.get_metric_history(ledger.run_ids()["study"], "num/trials")) == 1
