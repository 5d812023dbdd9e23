"""The fingerprint of the numeric code, on an edited copy of the package."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from arfl import aggregators, fingerprint
from arfl.grid import rules


def clear():
    fingerprint._parse.cache_clear()
    fingerprint.fingerprint.cache_clear()


class Package:
    """A copy of the package that the fingerprint looks at."""

    def __init__(self, folder):
        self.folder = folder

    def edit(self, file, old, new):
        path = self.folder / file
        text = path.read_text(encoding="utf-8")
        assert old in text
        path.write_text(text.replace(old, new, 1), encoding="utf-8")
        clear()

    def append(self, file, text):
        with open(self.folder / file, "a", encoding="utf-8") as stream:
            stream.write(text)
        clear()

    def of_cells(self):
        """(attack, aggregator) -> fingerprint, for every pair of rules."""
        pairs = [(a, r) for a in (None, *rules("attacks")) for r in rules("aggregators")]
        return {pair: fingerprint.of_cell(*pair) for pair in pairs}


@pytest.fixture
def package(tmp_path, monkeypatch):
    source = Path(fingerprint.__file__).parent
    ignored = shutil.ignore_patterns("__pycache__", "reporting", "studies", "*.csv")
    folder = shutil.copytree(source, tmp_path / "arfl", ignore=ignored)
    monkeypatch.setattr(fingerprint, "_PACKAGE", folder)
    clear()
    yield Package(folder)
    clear()


@pytest.fixture(scope="module")
def before():
    """The fingerprints of the package where it lies, unedited."""
    clear()
    return Package(fingerprint._PACKAGE).of_cells()


def test_where_the_package_lies_does_not_count(package, before):
    assert package.of_cells() == before


def test_pythons_version_does_not_count(before):
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from arfl import fingerprint\n"
        "print(fingerprint.of_cell('label_flip', 'residual_reweighting'))"
    )
    source = str(Path(fingerprint.__file__).parents[1])
    others = {}
    for minor in set(range(11, 16)) - {sys.version_info.minor}:
        python = shutil.which(f"python3.{minor}")
        # A shim on the path may stand for a version that is not there.
        if python and not subprocess.run([python, "-c", ""], capture_output=True).returncode:
            others[minor] = subprocess.check_output([python, "-c", code, source], text=True).strip()
    if not others:
        pytest.skip("there is no other Python from 3.11 on")
    assert set(others.values()) == {before["label_flip", "residual_reweighting"]}, others


def changed(before, after):
    return {pair for pair in before if before[pair] != after[pair]}


def test_it_is_twelve_hexadecimal_digits_and_differs_by_rule(package):
    cells = package.of_cells()
    assert all(re.fullmatch("[0-9a-f]{12}", value) for value in cells.values())
    assert len(set(cells.values())) == len(cells)


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("federation.py", "    rounds = []\n", "    # what each round leaves\n\n    rounds = []\n"),
        ("federation.py", '"""Train one cell.', '"""Train a single cell, once.'),
        ("local_training.py", '"""What all clients of a task share.', '"""Shared by all clients.'),
        ("local_training.py", '"""Local training of a round', '"""Local training, of a round'),
        ("aggregators/__init__.py", '"""(N,) the new global model."""', '"""(N,) the outcome."""'),
        ("federation.py", "rounds = []", "rounds   =  [ ]"),
    ],
    ids=["comment", "function", "class", "module", "attribute", "layout"],
)
def test_comments_docstrings_and_layout_do_not_count(package, before, file, old, new):
    package.edit(file, old, new)
    assert not changed(before, package.of_cells())


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("federation.py", '"initial_model"', '"attackers"'),
        ("models.py", "_BATCH_NORM_MOMENTUM = 0.1", "_BATCH_NORM_MOMENTUM = 0.2"),
        ("optimizers.py", "(0.9, 0.999)", "(0.9, 0.99)"),
        ("seeds.py", "zlib.crc32(role.encode())", "len(role)"),
        ("device_data.py", "_CROP_PADDING = 4", "_CROP_PADDING = 2"),
        ("local_training.py", "-len(batches[k])", "len(batches[k])"),
        ("metrics.py", "> 0", ">= 0"),
        ("layout.py", "slices, start = {}, 0", "slices, start = {}, 1"),
        ("attacks/_base.py", "return True", "return False"),
        ("attacks/__init__.py", "rule(meta, **options)", "rule(meta)"),
    ],
    ids=lambda value: value if value.endswith(".py") else "",
)
def test_a_change_of_the_core_changes_every_cell(package, before, file, old, new):
    package.edit(file, old, new)
    assert changed(before, package.of_cells()) == set(before)


@pytest.mark.parametrize("rule", rules("aggregators"))
def test_an_aggregator_counts_for_its_own_cells_alone(package, before, rule):
    package.append(f"aggregators/{rule}.py", "\n_ANOTHER = 1\n")
    assert changed(before, package.of_cells()) == {pair for pair in before if pair[1] == rule}


@pytest.mark.parametrize("rule", rules("attacks"))
def test_an_attack_counts_for_its_own_cells_alone(package, before, rule):
    package.append(f"attacks/{rule}.py", "\n_ANOTHER = 1\n")
    assert changed(before, package.of_cells()) == {pair for pair in before if pair[0] == rule}


@pytest.mark.parametrize(
    "file",
    ["cli.py", "grid.py", "files.py", "record.py", "errors.py", "progress.py", "fingerprint.py"],
)
def test_what_cannot_change_a_number_does_not_count(package, before, file):
    package.append(file, "\n_ANOTHER = 1\n")
    assert not changed(before, package.of_cells())


def test_a_new_rule_changes_no_other_cell(package, before):
    (package.folder / "aggregators/krum.py").write_text("def krum(models):\n    return models\n")
    (package.folder / "attacks/sybil.py").write_text("ATTACK = None\n")
    clear()
    assert not changed(before, {pair: fingerprint.of_cell(*pair) for pair in before})


@pytest.mark.parametrize(
    "file",
    sorted(path.name for path in Path(aggregators.__file__).parent.glob("_[a-z]*.py")),
)
def test_all_parts_of_a_rule_count_also_those_imported_at_their_first_use(package, before, file):
    package.append(f"aggregators/{file}", "\n_ANOTHER = 1\n")
    own = {pair for pair in before if pair[1] == "residual_reweighting"}
    assert own <= changed(before, package.of_cells())
