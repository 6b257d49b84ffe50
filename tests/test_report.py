"""Reports and figures: the same numbers as the record, self-contained, safe, and true to what happened."""

import json
import math
import re
import shutil
from dataclasses import replace

import polars as pl
import pytest
from conftest import json_lines
from studies import row

from study.analysis import findings
from study.analysis.importance import importances
from study.epoch import NO_EPOCH
from study.record.formats import mean_and_spread, show_number
from study.record.ledger import Ledger
from study.record.places import PORTRAIT
from study.record.states import State
from study.record.trials import TrialRecord, best_trial, seeds_frame, trials_frame
from study.reporting.document import WORDS
from study.reporting.figures import FIGURES, drawable
from study.reporting.model_figures import PORTRAITS
from study.search.ranges import Range
from study.search.space import SearchSpace
from study.tracking.overview import overview, run_name, settings_tag


def trial(number, state, params, nll, *, mi=0.0, epochs=3, feasible=None):
    rows = [row(epoch + 1, nll, kl=mi, au=int(mi > 0)) for epoch in range(epochs)]
    usable = state != "collapsed" if feasible is None else feasible
    return TrialRecord(number, State(state), "", params, rows, row(1, nll, kl=mi, au=int(mi > 0)), usable)


@pytest.fixture(scope="module")
def page(finished_study):
    from study.reporting.document import write_html

    path = finished_study / "report.html"
    write_html(Ledger.open(finished_study / "done"), path, 2.0)
    return path.read_text("utf-8")


def test_the_page_needs_no_network_and_holds_every_figure_and_trial(page, finished_study):
    assert not re.findall(r"""(?:src|href)\s*=\s*["'](?!#)""", page.split('<script type="module">')[0])
    trials = Ledger.open(finished_study / "done").trials()
    drawn = set(re.findall(r'data-figure="([a-z-]+)"', page))
    assert {"trade-off", "learning-curves", "endings", "parallel-coordinates", *PORTRAITS} - set(WORDS) <= drawn
    for record in trials:
        assert f'<td class="number">{record.best["valid/nll"]:.2f}</td>' in page
    best = best_trial(trials)
    assert f"trial {best.number}" in page.split("</div>")[0]


def test_specifications_in_the_page_are_valid_and_cannot_break_out_of_their_element(page):
    specs = re.findall(r'<script type="application/json">(.*?)</script>', page, re.DOTALL)
    assert len(specs) >= 8
    for spec in specs:
        assert json.loads(spec, parse_constant=pytest.fail)["$schema"].startswith(
            "https://vega.github.io/schema/vega-lite"
        )


def test_a_language_models_missing_numbers_do_not_blank_the_page(finished_study):
    from study.reporting.document import specification
    from study.reporting.figures import trade_off

    ledger = Ledger.open(finished_study / "done")
    first, *others = ledger.trials()
    trials = [replace(first, best=first.best.with_metrics({"valid/dispersion": math.nan})), *others]
    json.loads(specification(trade_off(ledger.definition, trials).to_dict()), parse_constant=pytest.fail)


def test_texts_of_a_corpus_are_escaped(finished_study, tmp_path, monkeypatch):
    from study.reporting import document as module

    hostile = [{"input": "<script>alert(1)</script>", "reconstruction": "</table>", "prior_sample": "&"}]
    monkeypatch.setattr(module, "samples_of", lambda ledger, best: hostile)
    module.write_html(Ledger.open(finished_study / "done"), tmp_path / "x.html", None)
    text = (tmp_path / "x.html").read_text("utf-8")
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert(1)" in text


@pytest.mark.parametrize("name", [*FIGURES, *PORTRAITS])
def test_every_figure_can_be_drawn_for_print(name, finished_study, tmp_path, call):
    code, _, err = call("report", "done", "--figure", tmp_path / "x.svg", "--which", name, "--storage", finished_study)
    # Of so small a study there is none.
    reasons = {"importance": "too few trials", "information-by-weight": "has no pooling test"}
    if name in reasons:
        assert (code, reasons[name] in err) == (1, True)
        return
    assert code == 0
    assert (tmp_path / "x.svg").read_text().startswith("<svg")


def test_figures_of_a_thousand_trials_are_drawn_and_stay_readable(finished_study):
    ledger = Ledger.open(finished_study / "done")
    few = ledger.trials()
    many = [replace(few[number % len(few)], number=number) for number in range(1000)]
    for name in ("trade-off", "learning-curves", "parallel-coordinates", "endings", "dispersion"):
        spec = FIGURES[name](ledger.definition, many).to_dict()
        rows = [row for rows in spec["datasets"].values() for row in rows]
        assert len({row["trial"] for row in rows if "trial" in row}) >= 100, name
    drawn = FIGURES["parallel-coordinates"](ledger.definition, many).to_dict()["title"]["text"]
    assert "250 of 1000 trials" in drawn


def test_markdown_has_its_figures_beside_it(finished_study, tmp_path, call):
    assert call("report", "done", "--markdown", tmp_path / "r.md", "--storage", finished_study)[0] == 0
    text = (tmp_path / "r.md").read_text("utf-8")
    linked = re.findall(r"\]\((r-[a-z-]+\.svg)\)", text)
    assert len(linked) == len(set(linked)) >= 8
    assert all((tmp_path / name).is_file() for name in linked)


def test_several_studies_stand_beside_each_other(finished_study, tmp_path, call):
    picture = tmp_path / "both.svg"
    storage = ("--storage", finished_study)
    code, out, _ = call("report", "done", "done", *storage)
    assert (code, out.count("done ")) == (0, 2)
    assert call("report", "done", "done", "--figure", picture, *storage)[0] == 0
    num = len(Ledger.open(finished_study / "done").trials())
    assert picture.read_text().count('aria-roledescription="point"') == 2 * num
    assert call("report", "done", "done", "--html", tmp_path / "x.html", *storage)[0] == 0
    page = (tmp_path / "x.html").read_text("utf-8")
    best = best_trial(Ledger.open(finished_study / "done").trials())
    assert page.count(f"<td>{best.best['valid/nll']:.2f}</td>") == 2
    assert call("report", "done", "done", "--markdown", tmp_path / "x.md", *storage)[0] == 1


def test_a_figure_of_a_model_is_of_the_trial_that_was_asked_for(finished_study, tmp_path, call):
    storage = ("--storage", finished_study)
    draw = ("report", "done", "--figure", tmp_path / "x.svg", "--which", "rate-by-dimension")
    best = best_trial(Ledger.open(finished_study / "done").trials())
    other = next(each.number for each in Ledger.open(finished_study / "done").trials() if each.number != best.number)
    pictures = []
    for more in ((), ("--trial", best.number), ("--trial", other)):
        assert call(*draw, *more, *storage)[0] == 0
        pictures.append((tmp_path / "x.svg").read_text())
    assert pictures[0] == pictures[1] != pictures[2]
    code, _, err = call("report", "done", "--figure", tmp_path / "x.svg", "--trial", 0, *storage)
    assert (code, "figure of all trials" in err) == (1, True)
    assert call("report", "done", "--trial", 0, *storage)[0] == 1


def test_a_wrong_figure_or_place_is_refused(finished_study, tmp_path, call):
    storage = ("--storage", finished_study)
    code, _, err = call("report", "done", "--figure", tmp_path / "x.png", "--which", "pie", *storage)
    assert (code, "learning-curves" in err) == (1, True)
    assert call("report", "done", "--html", tmp_path / "x.txt", *storage)[0] == 1
    assert call("report", "done", "--html", tmp_path / "missing/x.html", *storage)[0] == 1
    assert list(tmp_path.iterdir()) == []


def test_collapsed_trials_are_compared_after_equally_many_epochs(finished_study):
    definition = Ledger.open(finished_study / "done").definition

    def by_epoch(number, state, nll, mi):
        rows = [row(place + 1, value, kl=mi, au=int(mi > 0)) for place, value in enumerate(nll)]
        best = min(rows, key=lambda row: row["valid/nll"])
        return TrialRecord(number, State(state), "", {"a": number}, rows, best, state != "collapsed")

    # Worse at its end, and better after as many epochs.
    trials = [by_epoch(0, "complete", [60.0, 55.0, 50.0], 2.0), by_epoch(1, "collapsed", [58.0, 54.0], 0.0)]
    assert (
        "(trial 1) was 1.00 nats better than trial 0 after the same 2 epochs"
        in findings.answer(definition, trials, "")[1]
    )


def test_settings_that_collapse_with_other_seeds_are_said_to(finished_study):
    definition = Ledger.open(finished_study / "done").definition
    trials = [
        trial(0, "complete", {"a": 1, "seed": 0}, 50.0, mi=2.0),
        *[trial(seed, "collapsed", {"a": 1, "seed": seed}, 51.0) for seed in (1, 2)],
    ]
    first, second, _ = findings.answer(definition, trials, "")
    assert "2 of 3 trials collapsed, the best settings with 2 of 3 seeds" in second
    assert "seed=" not in first


def test_the_answer_is_sentences(finished_study):
    ledger = Ledger.open(finished_study / "done")
    sentences = findings.answer(ledger.definition, ledger.trials(), "Seed noise: not measured.")
    assert [len(re.findall(r"[.?!](?=\s|$)", sentence)) for sentence in sentences] == [1] * len(sentences)


def test_trials_are_told_apart_without_colour(finished_study):
    """Pooling has a shape of its own, and what became of a trial a filling: print in grey keeps both."""
    ledger = Ledger.open(finished_study / "done")
    for name in ("trade-off", "dispersion"):
        spec = FIGURES[name](ledger.definition, ledger.trials()).to_dict()
        encoding = next(each["encoding"] for each in spec.get("layer", [spec]) if "fillOpacity" in each["encoding"])
        for channel, column in (("shape", "pooling"), ("fillOpacity", "state")):
            assert encoding[channel]["field"] == column
            drawn = encoding[channel]["scale"]["range"]
            assert len(drawn) == len(encoding[channel]["scale"]["domain"])
        assert len(set(encoding["shape"]["scale"]["range"])) == len(encoding["shape"]["scale"]["range"])
        assert encoding["fillOpacity"]["scale"]["type"] == "ordinal"


def test_collapsed_trials_do_not_take_up_the_colours_of_the_others(finished_study):
    definition = Ledger.open(finished_study / "done").definition
    params = {"model.pooling": "max", "objective.kl_weight": 0.5}
    trials = [
        trial(0, "complete", params, 50.0, mi=1.0),
        trial(1, "complete", params, 52.0, mi=1.0),
        trial(2, "collapsed", params, 90.0),
    ]
    spec = FIGURES["parallel-coordinates"](definition, trials).to_dict()
    assert spec["layer"][0]["encoding"]["color"]["scale"]["domain"] == [50.0, 52.0]
    labels = [row for rows in spec["datasets"].values() for row in rows if "trial" not in row]
    searched = definition.space.ranges["objective.kl_weight"]
    weights = [(row["value"], row["place"]) for row in labels if row["setting"] == "kl_weight"]
    assert weights == [(f"{searched.low:g}", 0.0), (f"{searched.high:g}", 1.0)]


def test_figures_mark_what_has_collapsed_whatever_ended_it(finished_study):
    definition = Ledger.open(finished_study / "done").definition
    only = row(1, 50.0, kl=0.0, au=0)
    ended = TrialRecord(0, State.COMPLETE, "", {"a": 1}, [only], only, False)
    threshold = replace(definition, goal=replace(definition.goal, collapse_mi_nats=0.1))
    assert [each.state for each in drawable(threshold, [ended])] == ["collapsed"]


def test_the_answer_says_what_using_z_costs(finished_study):
    definition = Ledger.open(finished_study / "done").definition
    trials = [trial(0, "complete", {"a": 1}, 50.0, mi=2.0), trial(1, "collapsed", {"a": 2}, 49.0)]
    unsure, sure, lucky = (findings.answer(definition, trials, "noise", nats) for nats in (math.nan, 0.1, 5.0))
    assert "trial 0" in sure[0]
    assert sure[-2].endswith("1.00 nats better than trial 0 after the same 3 epochs: here, using z costs likelihood.")
    assert unsure[-2].endswith("of one seed each.")
    assert lucky[-2].endswith("which is within what seeds alone do.")
    faint = [trial(0, "complete", {"a": 1}, 50.0, mi=0.1), trial(1, "complete", {"a": 2}, 51.0, mi=2.0)]
    assert "the best is trial 1" in " ".join(findings.answer(definition, faint, ""))
    assert "nearest is trial 1" in findings.answer(definition, trials[1:], "")[0]


def test_what_collapsed_trials_share_is_found(finished_study):
    definition = Ledger.open(finished_study / "done").definition
    trials = [
        trial(
            number,
            "collapsed" if number % 2 else "complete",
            {
                "objective.kl_weight": 0.9 + number / 1000 if number % 2 else 0.2 + number / 1000,
                "model.pooling": "max" if number % 3 else "last",
            },
            50.0,
            mi=1.0,
        )
        for number in range(24)
    ]
    pattern = findings.collapse_pattern(definition, trials)
    found = {row["setting"]: row for row in pattern.to_dicts()}
    assert found["objective.kl_weight"]["collapsed"].startswith("0.901 to 0.923")
    assert found["model.pooling"]["collapsed"] == "max 8, last 4"
    assert "p" not in pattern.columns
    assert findings.collapse_pattern(definition, trials[::2]).height == 0


def test_importance_finds_the_setting_that_matters_and_says_how_sure_it_is(finished_study):
    definition = Ledger.open(finished_study / "done").definition
    trials = [
        trial(
            number,
            "complete",
            {
                "objective.kl_weight": 0.1 + 0.9 * (number * 7 % 40) / 40,
                "model.pooling": ["max", "mean", "last"][number % 3],
            },
            50.0 + (number * 7 % 40) / 10,
            mi=1.0 - (number * 7 % 40) / 80,
        )
        for number in range(40)
    ]
    found = importances(definition, trials)
    for metric in ("nll", "mi"):
        rows = found.filter(pl.col("metric") == metric).sort("importance", descending=True)
        assert rows["setting"][0] == "objective.kl_weight"
        assert rows["importance"].sum() == pytest.approx(1.0)
        assert rows["low"][0] <= rows["importance"][0] <= rows["high"][0] + 1e-9
    assert importances(definition, trials[:5]).height == 0


def test_settings_whose_importance_cannot_be_told_are_named(finished_study):
    definition = Ledger.open(finished_study / "done").definition
    searched = definition.space.ranges | {"objective.num_cycles": Range(values=(1, 2))}
    definition = replace(definition, space=SearchSpace(definition.space.fixed, searched))
    trials = [
        trial(
            number,
            "complete",
            {"objective.kl_weight": 0.1 + number / 25, "model.pooling": ["max", "mean"][number % 2]}
            | ({"objective.num_cycles": 2} if number % 3 else {}),
            50.0 + number,
        )
        for number in range(20)
    ]
    subtitle = " ".join(FIGURES["importance"](definition, trials).to_dict()["title"]["subtitle"])
    left_out = subtitle.partition("left out: ")[2].split(", ")
    assert "num_cycles" in left_out
    assert not {"kl_weight", "pooling"} & set(left_out)


def test_costs_count_epochs_saved_and_money(finished_study):
    ledger = Ledger.open(finished_study / "done")
    found = dict(findings.costs(ledger.definition, ledger.trials(), 2.0))
    frame = trials_frame(ledger.trials())
    assert found["epochs trained"] == str(frame["epochs"].sum())
    assert found["cost at 2 a GPU hour"] == "0.00"
    assert found["epochs saved by ending early"].startswith(
        str(int((3 - frame.filter(pl.col("state").is_in(["pruned", "collapsed"]))["epochs"]).sum()))
    )


def test_mlflow_has_the_report_the_dataset_and_the_nodes_load(finished_study):
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{finished_study / 'mlflow.db'}")
    ids = json.loads((finished_study / "done/mlflow.json").read_text())
    parent, child = client.get_run(ids["study"]), client.get_run(ids["0"])
    assert "report.html" in {item.path for item in client.list_artifacts(ids["study"])}
    figures = {item.path for item in client.list_artifacts(ids["study"], "figures")}
    assert {
        f"figures/{name}.png" for name in {*FIGURES, *PORTRAITS} - {"importance", "information-by-weight"}
    } == figures
    fingerprint = Ledger.open(finished_study / "done").definition.corpus_fingerprint
    for run in (parent, child):
        assert [item.dataset.digest for item in run.inputs.dataset_inputs] == [fingerprint[:36]]
    assert 0 <= child.data.metrics["system/cpu_utilization_percentage"] <= 100


def test_trials_that_differ_by_seed_only_are_averaged():
    trials = [
        trial(number, "complete", {"seed": number % 2, "model.pooling": "max" if number < 2 else "last"}, nll)
        for number, nll in enumerate((50.0, 52.0, 49.0, 49.5))
    ]
    trials = [replace(each, best=each.best.with_metrics({"valid/elbo": 0.0})) for each in trials]
    frame = seeds_frame(trials)
    assert frame.select("model.pooling", "seeds", "nll").rows() == [("last", 2, 49.25), ("max", 2, 51.0)]
    assert frame["nll sd"].to_list() == pytest.approx([0.5 / 2**0.5, 2 / 2**0.5])
    tags = {settings_tag(each.params) for each in trials}
    assert tags == {"pooling=max", "pooling=last"}
    for each in trials:
        del each.params["seed"]
    assert seeds_frame(trials) is None


def test_mlflows_page_is_set_up_within_the_size_of_a_tag(finished_study):
    definition = Ledger.open(finished_study / "done").definition
    state = json.loads(overview(definition))
    assert state["groupBy"] is None
    assert f"params.`{next(iter(definition.space.ranges))}`" in state["selectedColumns"]
    space = SearchSpace(definition.space.fixed, definition.space.ranges | {"seed": Range(values=(0, 1))})
    grouped = json.loads(overview(replace(definition, space=space)))
    assert grouped["groupBy"]["groupByKeys"] == [{"mode": "tag", "groupByData": "settings"}]
    space.ranges |= {f"model.{'x' * 40}{number}": Range(values=(0, 1)) for number in range(60)}
    assert overview(replace(definition, space=space)) is None


def test_the_json_report_still_has_its_keys(finished_study, call):
    line = json_lines(call("report", "done", "--json", "--storage", finished_study)[1])[0]
    wanted = {"trial", "state", "reason", "params", "epochs", "seconds", "valid", "run_id"}
    assert wanted <= set(line)


def test_data_cannot_end_or_open_an_element_of_the_page():
    import altair as alt

    from study.reporting.document import specification

    hostile = "</script><!--<script>"
    text = specification(alt.Chart(pl.DataFrame({"x": [hostile]})).mark_point().encode(x="x:N").to_dict())
    assert "<" not in text
    assert hostile in json.dumps(json.loads(text)).replace("\\u003c", "<")


@pytest.mark.parametrize(
    ("value", "shown"), [(-0.004, "0.00"), (1.005, "1.00"), (3, "3"), (None, "-"), (math.nan, "-"), (-1.5, "-1.50")]
)
def test_numbers_are_short_and_those_that_are_not_there_are_dashes(value, shown):
    assert show_number(value) == shown


def test_a_spread_is_shown_where_there_are_several_seeds():
    assert mean_and_spread(51.234, 0.1) == "51.23 ± 0.10"
    assert mean_and_spread(51.234, None) == mean_and_spread(51.234, math.nan) == "51.23"
    assert mean_and_spread(math.nan, math.nan) == "-"


def test_what_cells_of_markdown_hold_is_no_markup():
    from study.reporting.document import cell

    assert cell("a <unk> | b & c\nd") == "a &lt;unk> \\| b &amp; c d"


def test_a_report_names_the_versions_that_the_study_was_started_with(finished_study, page):
    provenance = Ledger.open(finished_study / "done").definition.provenance
    assert set(provenance) >= {"commit", "python", "torch", "ray"}
    assert all(f"{name} {found}" in page for name, found in provenance.items())


def test_importance_compares_trials_after_equally_many_epochs(finished_study):
    definition = replace(Ledger.open(finished_study / "done").definition, grace_epochs=2)
    # The weight decides how long a trial trains, and nothing else does anything.
    trials = []
    for number in range(40):
        weight = 0.1 + 0.9 * (number * 7 % 40) / 40
        epochs = 3 + int(10 * weight)
        params = {"objective.kl_weight": weight, "model.pooling": ["max", "mean"][number % 2]}
        made = trial(number, "complete", params, 60.0 - epochs, epochs=epochs)
        rows = [row(each.number, 60.0 - each.number + (number % 2), kl=0.1) for each in made.rows]
        trials.append(replace(made, rows=rows))
    shares = importances(definition, trials).filter(pl.col("metric") == "nll").sort("importance", descending=True)
    assert shares["setting"][0] == "model.pooling"


def test_the_status_says_how_much_is_left(finished_study, call):
    code, out, _ = call("status", "done", "--storage", finished_study)
    assert code == 0
    assert "min of training" in out


def test_a_finished_study_has_its_best_models_portrait_which_reports_draw_from(finished_study, call, tmp_path):
    from study.inference import portrait as module
    from study.inference.portrait import portrait_of, read_portrait

    ledger = Ledger.open(finished_study / "done")
    best = best_trial(ledger.trials())
    stored = read_portrait(ledger.trial_folder(best.number) / PORTRAIT)
    assert stored.epoch == best.best.number
    assert len(stored.means) == len(stored.texts) == len(stored.lengths)
    assert portrait_of(ledger, best) == stored
    # Made again where it is of another epoch, damaged or not there; and then not written by who only looks.
    copied = tmp_path / "runs"
    shutil.copytree(finished_study, copied)
    ledger = Ledger.open(copied / "done")
    path = ledger.trial_folder(best.number) / PORTRAIT
    path.write_text(path.read_text().replace('"epoch"', '"epok"'))
    again = module.portrait_of(ledger, best)
    assert again.kl == pytest.approx(stored.kl)
    assert read_portrait(path) is None


def test_a_run_is_called_by_what_tells_it_from_others():
    def named(**params):
        return run_name(TrialRecord(13, State.COMPLETE, "", params, [], NO_EPOCH, feasible=False))

    values = {"objective.annealing": "linear", "model.latent_size": 16, "model.pooling": "mean", "seed": 2}
    assert named(**values, **{"objective.kl_weight": 0.4312}) == "13 mean w0.431 z16 seed 2"
    assert named(**{"method": "language-model", "seed": 0}) == "13 language-model seed 0"
    assert named(**{"own.rate": 0.25, "own.kind": "deep"}) == "13 rate=0.25 kind=deep"
    assert named() == "13"
    assert len(named(**{f"own.{'long' * 9}{number}": 1.0 for number in range(9)})) == 80
