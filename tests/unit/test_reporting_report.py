import html.parser
from pathlib import Path

import pytest
from reporting_records import ASSUMPTIONS, Experiment

from arfl.reporting import collect, report

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
        self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def write(experiment, targets):
    for target in targets:
        out = experiment.run_dir / "collected" / target
        collect.collect(experiment.plan_path, target, out)
    path = experiment.run_dir / "report.html"
    report.write(experiment.run_dir, experiment.plan_path, PAPER, path)
    return Page(path.read_text())


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    targets = ("table4", "loan")
    experiment = Experiment(tmp_path_factory.mktemp("report"), targets=targets)
    experiment.write()
    experiment.path("mnist_shards/gaussian.noise_std-1/attackers-2/fedavg/seed-2").unlink()
    experiment.path("mnist_shards/gaussian.noise_std-2/attackers-2/median/seed-1").write_text(
        "[1, 2"
    )
    return write(experiment, (*targets, "weights"))


def test_the_page_needs_nothing_else(page):
    for reference in page.references:
        assert reference.startswith(("#", "data:image/png;base64,")), reference[:60]
    assert not page.open_tags


def test_every_link_leads_somewhere(page):
    links = [r[1:] for r in page.references if r.startswith("#")]
    assert links
    assert set(links) <= page.ids


def test_every_picture_has_words(page):
    assert len(page.images) >= 6
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
    assert page.text.index("undecided") < page.text.index("Table 4: multiplicative")
    assert "0 reproduced" in page.text


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
    assert "Not the paper's experiment" not in text
    assert "The paper's scale, on complete real data." in text


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
    for path in (tmp_path / "results").rglob("seed-*.json"):
        path.unlink()
    report.write(
        experiment.run_dir, experiment.plan_path, PAPER, experiment.run_dir / "report.html"
    )
    assert (experiment.run_dir / "report.html").read_bytes() == first
