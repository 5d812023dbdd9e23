import html.parser
import json
from pathlib import Path

import pandas as pd
import pytest
from reporting_records import ASSUMPTIONS, Experiment, papers_of

from arfl.reporting import captions, claims, collect, figures, report, tables
from arfl.reporting.targets import ALL, of_plan

PAPER = Path(__file__).parents[2] / "workflow" / "resources" / "paper"


class Page(html.parser.HTMLParser):
    """Collects what a page refers to, its ids and its text."""

    def __init__(self, text):
        super().__init__()
        self.ids, self.references, self.images, self.words = set(), [], [], []
        self.open_tags = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if "id" in attributes:
            assert attributes["id"] not in self.ids
            self.ids.add(attributes["id"])
        self.references += [attributes[k] for k in ("href", "src") if k in attributes]
        if tag == "img":
            self.images.append(attributes)
        if tag not in ("img", "meta", "wbr"):
            self.open_tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open_tags.pop() == tag

    def handle_data(self, data):
        if self.open_tags and self.open_tags[-1] not in ("style", "script"):
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def write(experiment, names):
    """Collect, draw and tabulate targets by name, and write the page."""
    run, plan, papers = experiment.run_dir, experiment.plan(), papers_of(experiment)
    collected = {
        name: run / "collected" / name / "collected.json" for name in (*plan["targets"], ALL)
    }
    collected = {name: path for name, path in collected.items() if name in names or name == ALL}
    for name, path in collected.items():
        collect.collect(experiment.plan_path, name, path)
    drawn, tabled = [], []
    for name in names:
        target, prefix = of_plan(plan)[name], run / "figures" / name
        figures.draw(collected[target.folder], target, papers, prefix)
        drawn += [prefix.with_suffix(".svg"), prefix.with_suffix(".json")]
        if target.table:
            tables.write(collected[target.folder], target, papers, run / "tables" / name)
            tabled.append(run / "tables" / f"{name}.json")
    own = [path for name, path in collected.items() if name != ALL]
    claims.evaluate(own, papers, run / "claims")
    page = run / "report.html"
    report.write(experiment.plan_path, collected.values(), run / "claims.json", page, tabled, drawn)
    return Page(page.read_text())


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    targets = ("table4", "loan")
    planned = ("figure3", *targets)
    experiment = Experiment(tmp_path_factory.mktemp("report"), targets=planned)
    experiment.write()
    experiment.path("mnist_shards/gaussian.noise_std-1/attackers-2/fedavg/seed-2").unlink()
    experiment.path("mnist_shards/gaussian.noise_std-2/attackers-2/median/seed-1").write_text(
        "[1, 2"
    )
    return write(experiment, (*targets, "weights"))


def test_the_page_needs_nothing_else(page):
    for reference in page.references:
        assert reference.startswith(("#", "data:image/svg+xml;base64,")), reference[:60]
    assert not page.open_tags


def test_every_link_leads_somewhere(page):
    links = [r[1:] for r in page.references if r.startswith("#")]
    assert links
    assert set(links) <= page.ids


def test_every_picture_has_words(page):
    assert len(page.images) == 3
    assert all(image["alt"] for image in page.images)


def test_it_names_scale_data_and_every_cell_that_is_not_there(page):
    assert "Not the paper's experiment (scale quick, stand-in data, synthetic data)" in page.text
    # A break opportunity may stand after a slash or an underscore.
    squeezed = page.text.replace(" ", "")
    cell = "mnist_shards/gaussian.noise_std-1/attackers-2/fedavg/seed-2"
    assert f"{cell}missingnorecordyet" in squeezed
    assert "mnist_shards/gaussian.noise_std-2/attackers-2/median/seed-1broken" in squeezed
    assert "isnotvalidJSON" in squeezed
    assert "Not collected yet: Figure 3" in page.text


def test_claims_come_first_with_their_tally(page):
    tally = page.text.index("None of the 43 claims about trained models is judged")
    assert tally < page.text.index("undecided") < page.text.index("Table 4: multiplicative")


def test_assumptions_and_provenance(page):
    for assumption in ASSUMPTIONS:
        assert assumption["reason"] in page.text
    assert "source 1, rule gaussian, training.lr_factor 1" in page.text
    for word in ("0123456789ab", "feedc0de", "test machine", "torch 2.15.0", "synthetic_loans"):
        assert word in page.text


def test_the_papers_numbers_stand_beside_ours(page):
    for printed in ("93.17", "90.58", "99.71"):
        assert printed in page.text


def test_the_papers_experiment_has_no_warning(tmp_path):
    experiment = Experiment(tmp_path, scale="paper", n_rounds=2, targets=("table1",))
    experiment.write()
    text = write(experiment, ("table1",)).text
    # Most of the paper's experiment is not there: the page is no more than a part of it.
    assert "Not the paper's experiment" not in text
    assert "The paper's scale on complete real data, but not the whole experiment" in text


def test_a_target_without_records_is_folded(tmp_path):
    experiment = Experiment(tmp_path, targets=("table4", "loan"))
    experiment.write()
    for path in (tmp_path / "results" / "quick" / "cells" / "mnist_shards").rglob("seed-*.json"):
        path.unlink()
    page = write(experiment, ("table4", "loan"))
    assert "No record yet; the table as far as the paper prints it" in page.text
    # That of the other target.
    assert len(page.images) == 1
    assert "93.17" in page.text


def test_a_run_without_any_record_still_has_a_report(tmp_path):
    experiment = Experiment(tmp_path, targets=("table4", "loan"))
    experiment.write()
    for path in (tmp_path / "results").rglob("seed-*.json"):
        path.unlink()
    page = write(experiment, ("table4", "loan", "weights", "timing"))
    assert "0 of 108 cells done" in page.text
    assert "Scale quick" in page.text


def test_the_page_is_the_same_from_the_same_csv(tmp_path):
    experiment = Experiment(tmp_path, targets=("loan",))
    experiment.write()
    write(experiment, ("loan",))
    path = experiment.run_dir / "report.html"
    first = path.read_bytes()
    write(experiment, ("loan",))
    assert path.read_bytes() == first


def test_a_target_of_the_users_own_has_a_section_with_table_and_figure(tmp_path):
    experiment = Experiment(tmp_path, targets=("table4",))
    experiment.targets = {"my_own": experiment.targets["table4"]}
    experiment.write()
    page = write(experiment, ("my_own",))
    assert "my-own" in page.ids
    assert len(page.images) == 1
    assert "Residual reweighting from" in page.images[0]["alt"]
    assert "My own" in page.text
    assert "Accuracy, by standard deviation σ of the noise" in page.text


def test_the_first_screen_says_what_was_found(page):
    start = page.text[:2500]
    assert "claims about trained models is judged (scale is quick, not paper; data: " in start
    assert "claims say that residual reweighting is the best rule" in start
    assert "Measured in quick" in start
    assert "claimed" in start


def test_no_line_ends_between_a_number_and_its_percent_sign(page):
    assert any("\u00a0%" in word for word in page.words)
    assert [word for word in page.words if " %" in word] == []


def test_claims_that_no_record_measures_are_folded(page):
    shown, _, folded = page.text.partition(" claims that no record of this run measures ")
    n_folded = int(shown.split()[-1])
    assert 0 < n_folded < 44
    # Rows of the table end in what was measured, or in a dash.
    assert "LOAN defended" in shown
    assert "MNIST, label flip: best average" not in shown
    assert "MNIST, label flip: best average" in folded


def finding(verdict, under, measured):
    return {
        "id": "x", "papers_own": "holds", "papers_numbers": "", "at_hand": "holds", "reason": "",
        "verdict": verdict, "under": under, "measured": measured, "claimed": "more",
        "subject": "ours", "target": "t", "says_best": False,
    }  # fmt: skip


def test_a_verdict_under_another_reading_is_framed_in_dashes():
    runs = [
        {"run": "a", "claims": [finding("reproduced", "", "1 point")]},
        {"run": "b", "claims": [finding("reproduced", "protocol released", "2 points")]},
        {"run": "c", "claims": [finding("undecided", "", "")]},
    ]
    (row,) = report.matrix(runs, of_first=True)
    assert [cell["verdict"] for cell in row["cells"]] == ["verdict-mark", "verdict-under", ""]
    (other,) = report.matrix(runs[::-1], of_first=True)
    (any_run,) = report.matrix(runs[::-1], of_first=False)
    assert (row["measured"], other["measured"], any_run["measured"]) == (True, False, True)
    # Over all runs one with a verdict is told of.
    assert (any_run["run"], any_run["sides"]) == ("b", "ours: 2 points, claimed more")


def test_verdicts_come_first_in_the_matrix_and_runs_that_have_one_speak():
    def claim(identity, **changes):
        return finding("undecided", "", "2 points") | {
            "id": identity, "target": "t", "quote": identity, "where": "Section 1",
            "says_best": identity == "best", "papers_subject": "", "papers_measured": "",
            "papers_claimed": "", "at_hand": "unclear",
        } | changes  # fmt: skip

    judged = {"verdict": "not reproduced", "at_hand": "does not hold"}
    runs = [
        {"run": "a", "claims": [claim("best"), claim("robust")]},
        {"run": "b", "claims": [claim("best"), claim("robust", **judged)]},
    ]
    rows = report.matrix(runs, of_first=False)
    assert [row["claim"]["id"] for row in rows] == ["robust", "best"]
    assert rows[0]["run"] == "b"
    assert [r["claim"]["id"] for r in report.matrix(runs, of_first=True)] == ["best", "robust"]
    said = report.findings_of(runs)
    assert said[0].startswith("b: Of 2 claims about trained models: 0 reproduced, 1 not reproduced")
    assert "“robust” (Section 1): ours, measured 2 points, claimed more" in said[0]
    assert said[1].startswith("b: 1 claim says that residual reweighting is the best rule (unclear")
    assert report.findings_of(runs[:1]) == report.findings(runs[0])


def test_what_is_a_sample_does_not_speak_for_the_rest():
    cells = pd.DataFrame(
        {
            "scale": "paper",
            "protocol": "paper",
            "state": "done",
            "dataset": ["mnist", "loan"],
            "data_kind": ["complete", "sample"],
        }
    )
    assert captions.warning(cells) == (
        "LOAN: not the paper's experiment (sample data), the shape may be compared, the numbers "
        "not. MNIST: complete data."
    )
    assert captions.warning(cells.assign(protocol="released")).endswith(
        "MNIST: complete data, but not the paper's text (protocol released)."
    )
    mixed = pd.concat([cells, cells[:1].assign(data_kind="sample")])
    assert captions.warning(mixed).startswith("Not the paper's experiment (sample data)")
    assert captions.warning(cells[:1]) == ""
    assert captions.warning(cells[1:]).startswith("Not the paper's experiment (sample data)")


def test_the_index_sets_the_runs_beside_each_other(tmp_path):
    for scale, targets in (("quick", ("loan",)), ("paper", ("table1",))):
        experiment = Experiment(tmp_path, scale=scale, n_rounds=2, targets=targets)
        experiment.write()
        write(experiment, targets)
    ledgers = [tmp_path / "results" / run / "claims.json" for run in ("quick", "paper")]
    report.index(ledgers, tmp_path / "results" / "index.html")
    page = Page((tmp_path / "results" / "index.html").read_text())
    assert "quick/report.html" in page.references
    assert "paper/report.html" in page.references
    assert "108 of 108" not in page.text
    assert "36 of 36" in page.text
    assert "90 of 90" in page.text


def test_the_theorem_is_no_verdict_on_a_trained_model(tmp_path):
    experiment = Experiment(tmp_path, n_rounds=2, targets=("loan",))
    experiment.write()
    write(experiment, ("loan",))
    path = tmp_path / "results" / "quick" / "claims.json"
    ledger = json.loads(path.read_text())
    theorems = [claim for claim in ledger["claims"] if claim["target"] == "theory"]
    theorems[0]["verdict"] = "reproduced"
    path.write_text(json.dumps(ledger))
    report.index([path], tmp_path / "index.html")
    n_trained = len(ledger["claims"]) - len(theorems)
    assert f"0 reproduced, 0 not reproduced, {n_trained} undecided" in (
        Page((tmp_path / "index.html").read_text()).text
    )
