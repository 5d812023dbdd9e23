"""The fingerprint of the numeric code, on an edited copy of the package."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from arfl import aggregators, fingerprint
from arfl.registry import names as rules


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
        """(network, attack, aggregator, device) -> fingerprint.

        Every pair of rules on one network and device, every network and device for one pair.
        """
        pairs = [(a, r) for a in (None, *rules("attacks")) for r in rules("aggregators")]
        cells = [("cnn", *pair, "cpu") for pair in pairs]
        one = ("label_flip", "residual_reweighting")
        cells += [(n, *one, d) for n in rules("networks") for d in ("cpu", "cuda")]
        return {cell: fingerprint.of_cell(*cell) for cell in cells}


@pytest.fixture
def package(tmp_path, monkeypatch):
    source = Path(fingerprint.__file__).parent
    ignored = shutil.ignore_patterns("__pycache__", "studies", "*.csv")
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
        "print(fingerprint.of_cell(*sys.argv[2:]))"
    )
    source = str(Path(fingerprint.__file__).parents[1])
    others, cell = {}, ("cnn", "label_flip", "residual_reweighting", "cpu")
    for minor in set(range(11, 16)) - {sys.version_info.minor}:
        python = shutil.which(f"python3.{minor}")
        # A shim on the path may stand for a version that is not there.
        if python and not subprocess.run([python, "-c", ""], capture_output=True).returncode:
            others[minor] = subprocess.check_output(
                [python, "-c", code, source, *cell], text=True
            ).strip()
    if not others:
        pytest.skip("no other python3.11 to python3.15 runs from the PATH; install one")
    assert set(others.values()) == {before[cell]}, others


def changed(before, after):
    return {cell for cell in before if before[cell] != after[cell]}


def of(before, **wanted):
    """The cells with this network, attack, rule or device."""
    parts = ("network", "attack", "rule", "device")
    return {
        cell for cell in before if wanted.items() <= dict(zip(parts, cell, strict=True)).items()
    }


def test_it_is_twelve_hexadecimal_digits_and_differs_by_rule(package):
    cells = package.of_cells()
    assert all(re.fullmatch("[0-9a-f]{12}", value) for value in cells.values())
    # One attack uses two rules, whatever the server's: against either of them the code is the same.
    both = {cells["cnn", "adaptive", rule, "cpu"] for rule in USED_BY_AN_ATTACK}
    assert len(both) == 1
    assert len(set(cells.values())) == len(cells) - 1


USED_BY_AN_ATTACK = {"median": "adaptive", "residual_reweighting": "adaptive"}
EXTENDED = {"backdoor": "dba"}
ROUNDS = "rounds = state.rounds"
WATCH = "    stopwatch = Stopwatch(scenario.device)\n"
HARMLESS = {
    "a comment": ("federation.py", WATCH, f"    # from the first round\n\n{WATCH}"),
    "layout": ("federation.py", ROUNDS, "rounds   =  (state . rounds)"),
    "a function's docstring": ("federation.py", '"""Train from a state', '"""Go on from a state'),
    "a class's docstring": ("federation.py", '"""Seconds per phase.', '"""Seconds by phase.'),
    "a module's docstring": ("local_training.py", '"""Local training of', '"""Local training, of'),
    "an attribute's docstring": ("kernels/backend.py", '"""Values (K x N)', '"""Values (N x K)'),
    "a docstring that goes": (
        "attack.py",
        '"""What the attackers remember',
        '"""What they remember',
    ),
    "the text of a raise": ("federation.py", "or raise n_clients", "or set n_clients"),
    "the f-string of a raise": ("seeds.py", "unknown role {role!r}", "no role {role}, but"),
    "a raise that gets a cause": (
        "numerics.py",
        'cpu or auto"\n        )',
        'cpu"\n        ) from None',
    ),
    "an f-string in a warning": ("kernels/backend.py", "be imported ({error})", "start: {error!r}"),
    "the text of a warning": ("kernels/fallback.py", "many times slower", "slower"),
    "a log line": ("federation.py", WATCH, f'{WATCH}    logging.info("begins %d", 1)\n'),
    "a warning": (
        "federation.py",
        WATCH,
        f'{WATCH}    warnings.warn(f"{{state}}", stacklevel=2)\n',
    ),
    "a parameter's annotation": ("federation.py", "scenario: Scenario, state", "scenario, state"),
    "a result's annotation": (
        "federation.py",
        "_enough(task: dict) -> int:",
        "_enough(task: dict):",
    ),
    "a variable's annotation": ("federation.py", ROUNDS, "rounds: list[dict] = state.rounds"),
    "a field's annotation": ("attack.py", "round_number: int", "round_number: object"),
}


@pytest.mark.parametrize(("file", "old", "new"), HARMLESS.values(), ids=HARMLESS)
def test_what_only_people_read_does_not_count(package, before, file, old, new):
    package.edit(file, old, new)
    assert not changed(before, package.of_cells())


HARMFUL = {
    "a stream of random numbers": ("federation.py", '"initial_model"', '"attackers"'),
    "a pair of constants": (
        "numerics.py",
        '("CUBLAS_WORKSPACE_CONFIG", ":4096:8")',
        '("CUBLAS_WORKSPACE_CONFIG", ":16:8")',
    ),
    "an expression": ("seeds.py", "zlib.crc32(role.encode())", "len(role)"),
    "a constant": ("device_data.py", "CROP_PADDING = 4", "CROP_PADDING = 2"),
    "a batch's size": ("evaluation.py", "_BATCH = 1000", "_BATCH = 500"),
    "a sign": ("local_training.py", "(1 - m) * (start", "(1 + m) * (start"),
    "a comparison": ("metrics.py", "> 0", ">= 0"),
    "an offset": ("layout.py", "slices, start = {}, 0", "slices, start = {}, 1"),
    "a truth value": ("attack.py", "return True", "return False"),
    "an argument": ("attack.py", "(meta, **options)", "(meta)"),
    "a default": ("aggregation.py", "round_number: int = 1", "round_number: int = 0"),
    "a type of one": ("evaluation.py", "_BATCH = 1000", "_BATCH = 1000.0"),
    "a threshold": ("kernels/backend.py", "SMALL = 100_000", "SMALL = 10_000"),
    "the default dtype": ("numerics.py", "dtype(torch.float32)", "dtype(torch.float64)"),
    "TF32": ("numerics.py", "matmul.allow_tf32 = False", "matmul.allow_tf32 = True"),
    "the threads": ("numerics.py", "    torch.set_num_threads(1)\n", ""),
    "a dropped statement": ("federation.py", "scenario.attack.restore(state.attack)", "pass"),
    "a dropped line": ("federation.py", "    scenario.attack.restore(state.attack)\n", ""),
    "what is raised": ("seeds.py", "raise ValueError(f", "raise KeyError(f"),
    "that it is raised": ("seeds.py", "if role not in ROLES:", "if role is None:"),
}


@pytest.mark.parametrize(("file", "old", "new"), HARMFUL.values(), ids=HARMFUL)
def test_a_change_of_the_core_changes_every_cell(package, before, file, old, new):
    package.edit(file, old, new)
    assert changed(before, package.of_cells()) == set(before)


@pytest.mark.parametrize("call", ["error({})", "distance.error({})", "warning({})"])
def test_a_call_that_only_sounds_like_a_message_counts(package, call):
    package.append("metrics.py", f"\n_X = {call.format(0.5)}\n")
    half = package.of_cells()
    package.edit("metrics.py", f"_X = {call.format(0.5)}", f"_X = {call.format(0.9)}")
    assert changed(half, package.of_cells()) == set(half)


@pytest.mark.parametrize("file", ["optimizers.py", "torch_training.py"])
def test_training_by_pytorch_counts_where_nothing_is_compiled(package, before, file):
    package.append(file, "\n_ANOTHER = 1\n")
    without = of(before, device="cuda") | of(before, network="resnet18")
    assert changed(before, package.of_cells()) == without


@pytest.mark.parametrize("network", rules("networks"))
def test_a_network_counts_for_its_own_cells_alone(package, before, network):
    package.append(f"networks/{network}.py", "\n_ANOTHER = 1\n")
    assert changed(before, package.of_cells()) == of(before, network=network)


def test_the_momentum_of_batch_norm_counts_for_the_networks_that_have_it(package, before):
    package.edit("networks/resnet18.py", "_BATCH_NORM_MOMENTUM = 0.1", "_BATCH_NORM_MOMENTUM = 0.2")
    assert changed(before, package.of_cells()) == of(before, network="resnet18")


def test_kernels_count_on_their_own_device_alone(package, before):
    kernels = sorted(path.name for path in (package.folder / "kernels").glob("*_[cg]pu.py"))
    assert {"aggregation_cpu.py", "aggregation_gpu.py", "line_cpu.py"} <= set(kernels)
    for file, device in [
        ("aggregation_gpu.py", "cuda"),
        ("aggregation_cpu.py", "cpu"),
        ("line_cpu.py", "cpu"),
    ]:
        unedited = package.of_cells()
        package.append(f"kernels/{file}", "\n_ANOTHER = 1\n")
        assert changed(unedited, package.of_cells()) == of(before, device=device), file


@pytest.mark.parametrize("network", ["cnn", "fasttext", "loannet"])
def test_compiled_training_counts_for_its_network_on_a_cpu_alone(package, before, network):
    package.append(f"kernels/{network}_cpu.py", "\n_ANOTHER = 1\n")
    assert changed(before, package.of_cells()) == of(before, network=network, device="cpu")


@pytest.mark.parametrize("rule", rules("aggregators"))
def test_an_aggregator_counts_for_its_own_cells_alone(package, before, rule):
    package.append(f"aggregators/{rule}.py", "\n_ANOTHER = 1\n")
    expected = of(before, rule=rule)
    if rule in USED_BY_AN_ATTACK:
        expected |= of(before, attack=USED_BY_AN_ATTACK[rule])
    assert changed(before, package.of_cells()) == expected


@pytest.mark.parametrize("rule", rules("attacks"))
def test_an_attack_counts_for_its_own_cells_alone(package, before, rule):
    package.append(f"attacks/{rule}.py", "\n_ANOTHER = 1\n")
    expected = of(before, attack=rule)
    if rule in EXTENDED:
        expected |= of(before, attack=EXTENDED[rule])
    assert changed(before, package.of_cells()) == expected


@pytest.mark.parametrize(
    "file",
    [
        *("cli.py", "grid.py", "files.py", "record.py", "errors.py", "progress.py", "registry.py"),
        *("fingerprint.py", "config.py", "cell.py", "checkpoint.py", "dataset.py", "partition.py"),
        *("reporting/partition_picture.py", "reporting/collect.py", "datasets/mnist.py"),
    ],
)
def test_what_cannot_change_a_number_does_not_count(package, before, file):
    package.append(file, "\n_ANOTHER = 1\n")
    assert not changed(before, package.of_cells())


def test_a_new_rule_changes_no_other_cell(package, before):
    (package.folder / "aggregators/krum.py").write_text("def krum(models):\n    return models\n")
    (package.folder / "attacks/sybil.py").write_text("ATTACK = None\n")
    clear()
    assert not changed(before, {cell: fingerprint.of_cell(*cell) for cell in before})


@pytest.mark.parametrize(
    "file",
    sorted({p.name for p in Path(aggregators.__file__).parent.glob("_[a-z]*.py")} - {"_byzfl.py"}),
)
def test_all_parts_of_a_rule_count_also_those_imported_at_their_first_use(package, before, file):
    package.append(f"aggregators/{file}", "\n_ANOTHER = 1\n")
    own = of(before, rule="residual_reweighting")
    assert own <= changed(before, package.of_cells())


def test_byzfls_adapter_counts_for_its_rules_alone(package, before):
    rule = ("cnn", "label_flip", "byzfl/Krum", "cpu")
    own = fingerprint.of_cell(*rule)
    package.append("aggregators/_byzfl.py", "\n_ANOTHER = 1\n")
    assert not changed(before, package.of_cells())
    assert fingerprint.of_cell(*rule) != own
