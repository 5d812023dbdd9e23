"""The command line: each mistake is one message and status 2, and a log opens with the command."""

import json
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import small_data
import torch
import yaml

import arfl
from arfl import cell as cells
from arfl import cli, federation, files, fingerprint, record
from arfl import dataset as datasets
from arfl import partition as partitions
from arfl.grid import Cell

ROOT = Path(__file__).parents[2]
CELL = Cell("t", "none", 0, "fedavg", 1).describe()


def settings(*arguments, **options):
    """Settings of the partition that the tests train on."""
    made = small_data.settings(
        *arguments, **{"n_clients": 4, "partition": {"name": "iid"}} | options
    )
    return made | {"scale": "quick", "protocol": "paper"}


SETTINGS = settings()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A prepared folder ``data`` and its partition ``seed-1.npz``."""
    folder = tmp_path_factory.mktemp("cli")
    small_data.write_blobs(folder / "data")
    assert partition(folder, folder / "seed-1.npz") == 0
    return folder


def partition(folder, out, scheme='{"name": "iid"}', n_clients="4"):
    return cli.main(
        [
            *("partition", "--data", str(folder / "data/meta.json"), "--scheme", scheme),
            *("--n-clients", n_clients, "--seed", "1"),
            *("--out", str(out), "--picture", str(out.with_suffix(".png"))),
        ]
    )


def train_arguments(folder, out, cell=CELL, settings=SETTINGS, **options):
    given = {
        "cell": json.dumps(cell),
        "settings": json.dumps(settings),
        "data": folder / "data/meta.json",
        "partition": folder / "seed-1.npz",
        "device": "cpu",
        "checkpoint-minutes": 5.0,
        "kept": out.parent / "kept" / out.name,
        "out": out,
    }
    return ["train", *(str(word) for k, v in (given | options).items() for word in (f"--{k}", v))]


def fails(capsys, arguments, message):
    """The verb ends with status 2 and this one message, and no traceback."""
    capsys.readouterr()
    assert cli.main([str(argument) for argument in arguments]) == 2
    output = capsys.readouterr()
    lines = [line for line in output.err.splitlines() if not line.startswith("$ ")]
    assert output.out == ""
    assert "Traceback" not in output.err
    assert len(lines) == 1, output.err
    assert lines[0].startswith("error: ")
    assert message in lines[0]


@pytest.fixture(autouse=True)
def handlers():
    """What the command line does with signals ends with the test."""
    stops = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    before = {stop: signal.getsignal(stop) for stop in stops}
    yield
    for stop, handler in before.items():
        signal.signal(stop, handler)


# Training


def test_a_trained_cell_leaves_the_record_of_the_round_loop(folder, tmp_path):
    assert cli.main(train_arguments(folder, tmp_path / "cell.json")) == 0
    trained = record.read(tmp_path / "cell.json")
    dataset = datasets.load(folder / "data")
    divided = partitions.load(folder / "seed-1.npz")
    scenario = federation.Scenario(SETTINGS, 0, 1, dataset, divided, torch.device("cpu"))
    expected = federation.train(scenario, scenario.start())
    assert trained["rounds"] == expected.rounds
    assert trained["clients"] == scenario.describe_clients()
    assert trained["diverged"] is None
    assert trained["cell"] == CELL
    assert trained["settings"] == SETTINGS
    assert trained["data"]["checksum"] == dataset.checksum
    assert trained["partition"] == divided.digest
    code = fingerprint.of_cell("loannet", None, "fedavg", "cpu")
    assert trained["provenance"]["fingerprint"] == code
    assert trained["provenance"]["device"] == "cpu"
    assert trained["provenance"]["threads"] == torch.get_num_threads() == 1
    kept = tmp_path / "kept" / "cell.json"
    assert sorted(tmp_path.rglob("*.*")) == [tmp_path / "cell.json", kept]
    assert kept.read_bytes() == (tmp_path / "cell.json").read_bytes()


def test_a_kept_record_is_taken_up_again_for_the_same_cell_alone(folder, tmp_path, monkeypatch):
    out = tmp_path / "cell.json"
    assert cli.main(train_arguments(folder, out)) == 0
    first = out.read_bytes()
    out.unlink()
    with monkeypatch.context() as patched:
        patched.setattr(cells, "_train", None)
        assert cli.main(train_arguments(folder, out)) == 0
    assert out.read_bytes() == first
    assert cli.main(train_arguments(folder, out, settings=settings(lr=0.2))) == 0
    assert record.read(out)["settings"]["task"]["lr"] == 0.2


FLIP = {"rule": "label_flip", "options": {"source": "a", "target": "b"}}
FLIP["training"] = {"epoch_factor": 2, "lr_factor": 1}


@pytest.mark.parametrize(
    ("given", "n_attackers", "message"),
    [
        (settings(model="vgg"), 0, "unknown network 'vgg'"),
        (settings(model="cnn"), 0, "network cnn does not take the data made"),
        (settings(optimizer="lamb"), 0, "unknown optimizer 'lamb'"),
        (settings("krum"), 0, "unknown aggregator 'krum'"),
        (
            SETTINGS | {"aggregator": {"rule": "median", "options": {"share": 1}}},
            0,
            "aggregator median has no option 'share'",
        ),
        (settings(attack="sybil"), 1, "unknown attack 'sybil'"),
        (SETTINGS | {"attack": FLIP | {"options": {"source": "z"}}}, 1, "source is 'z'"),
        (SETTINGS | {"attack": FLIP}, 5, "only 4 clients hold class 0"),
    ],
)
def test_settings_that_do_not_fit_are_one_message(
    folder, tmp_path, capsys, given, n_attackers, message
):
    cell = CELL | {"n_attackers": n_attackers}
    out = tmp_path / "cell.json"
    fails(capsys, train_arguments(folder, out, cell=cell, settings=given), message)
    assert list(tmp_path.iterdir()) == []


def test_missing_and_broken_inputs_are_one_message(folder, tmp_path, capsys):
    out = tmp_path / "out" / "cell.json"
    arguments = train_arguments(folder, out, data=tmp_path / "none/meta.json")
    fails(capsys, arguments, "meta.json does not exist; run the step that makes it first")
    arguments = train_arguments(folder, out, partition=tmp_path / "none.npz")
    fails(capsys, arguments, "none.npz does not exist; run the partition step first")
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04 broken")
    arguments = train_arguments(folder, out, partition=tmp_path / "broken.npz")
    fails(capsys, arguments, "broken.npz is not a partition")
    assert not out.parent.exists()


def test_cuda_without_a_gpu_is_one_message(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    arguments = train_arguments(folder, tmp_path / "cell.json", device="cuda")
    fails(capsys, arguments, "device is cuda, but PyTorch finds no usable GPU here")
    assert cli.main(train_arguments(folder, tmp_path / "cell.json", device="auto")) == 0
    assert files.read_json(tmp_path / "cell.json")["provenance"]["device"] == "cpu"


def test_a_folder_that_may_not_be_written_is_one_message(folder, tmp_path, capsys, monkeypatch):
    def refuse(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.tempfile, "mkdtemp", refuse)
    fails(capsys, train_arguments(folder, tmp_path / "cell.json"), "the disk is full")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_stopped_training_is_saved_says_how_to_go_on_and_goes_on(
    folder, tmp_path, capsys, monkeypatch, number
):
    train = federation.train

    def stopped(scenario, state, after_round):
        def stop_after(reached):
            after_round(reached)
            if len(reached.rounds) == 2:
                signal.raise_signal(number)

        return train(scenario, state, stop_after)

    # Python leaves SIGINT alone where it was started with it ignored, as in a background job.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    out = tmp_path / "cell.json"
    with monkeypatch.context() as patched:
        patched.setattr(federation, "train", stopped)
        assert cli.main(train_arguments(folder, out)) == 130
    assert "run the same command again" in capsys.readouterr().err
    assert [file.name for file in tmp_path.rglob("*.*")] == ["cell.checkpoint.npz"]
    assert cli.main(train_arguments(folder, out)) == 0
    resumed = record.read(out)
    assert cli.main(train_arguments(folder, tmp_path / "whole" / "cell.json")) == 0
    whole = record.read(tmp_path / "whole" / "cell.json")
    assert (resumed["provenance"]["resumed"], whole["provenance"]["resumed"]) == (1, 0)
    assert resumed["rounds"] == whole["rounds"]
    assert not list(tmp_path.rglob("*.npz"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_training_stopped_while_it_writes_leaves_nothing_half(
    folder, tmp_path, capsys, monkeypatch, number
):
    def stopped(*_, **__):
        (tmp_path / "out").mkdir()
        with files.atomic_path(tmp_path / "out" / "half") as temporary:
            temporary.touch()
            signal.raise_signal(number)

    signal.signal(signal.SIGINT, signal.default_int_handler)
    monkeypatch.setattr(federation, "train", stopped)
    assert cli.main(train_arguments(folder, tmp_path / "cell.json")) == 130
    assert "run the same command again" in capsys.readouterr().err
    assert [path.name for path in tmp_path.rglob("*")] == ["out"]


def test_a_mistake_in_the_program_keeps_its_traceback(folder, tmp_path, monkeypatch):
    def broken(*_, **__):
        raise ZeroDivisionError

    monkeypatch.setattr(federation, "train", broken)
    with pytest.raises(ZeroDivisionError):
        cli.main(train_arguments(folder, tmp_path / "cell.json"))


def test_a_mistake_in_somebodys_rule_is_a_message_that_names_its_file(
    folder, tmp_path, monkeypatch, capsys, caplog
):
    mine = Path(arfl.__file__).parent / "attacks" / "mine.py"
    code = compile("\n\nx.missing", str(mine), "exec")
    monkeypatch.setattr(federation, "train", lambda *_, **__: exec(code, {"x": 1}))
    assert cli.main(train_arguments(folder, tmp_path / "cell.json")) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f"error: attack mine, {mine}, line 3: AttributeError: ")
    # Its author needs the rest too.
    assert "AttributeError" in caplog.records[-1].exc_text
    assert not (tmp_path / "cell.json").exists()


# A cell by its id

IDS = "mnist_shards/none/attackers-0/fedavg/seed-1"


@pytest.fixture
def small_project(tmp_path, monkeypatch):
    """A folder with the project's configuration, one round of the digits, data and partition."""
    config = yaml.safe_load((ROOT / "config.yaml").read_text())
    config["scales"]["quick"]["tasks"]["mnist_shards"] |= {"rounds": 1}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    monkeypatch.chdir(tmp_path)
    data = ["--fetched", "data/raw/digits/fetched.json", "--out", "data/prepared/digits/meta.json"]
    assert cli.main(["prepare", "--dataset", "digits", *data]) == 0
    assert cli.main(["partition", "--cell", IDS]) == 0
    return tmp_path


def test_a_cell_is_trained_by_its_id_as_by_its_json(small_project, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["arfl", "train", "--cell", IDS])
    assert cli.main(["train", "--cell", IDS]) == 0
    out = small_project / f"results/quick/cells/{IDS}.json"
    by_id = record.read(out)
    assert (small_project / f"results/quick/kept/{IDS}.json").read_bytes() == out.read_bytes()
    # The record's command is whole: it repeats the training whatever becomes of the configuration.
    command = shlex.split(by_id["provenance"]["command"])
    assert command[:3] == ["python", "-m", "arfl"]
    for path in (out, small_project / f"results/quick/kept/{IDS}.json"):
        path.unlink()
    (small_project / "config.yaml").unlink()
    assert cli.main(command[3:]) == 0
    again = record.read(out)
    for part in ("cell", "settings", "data", "partition", "clients", "rounds"):
        assert again[part] == by_id[part]


def test_the_configuration_of_a_cell_is_read_as_snakemake_does(small_project, monkeypatch):
    more = small_project / "more.yaml"
    more.write_text("scales: {quick: {tasks: {mnist_shards: {lr: 0.5, epochs: 2}}}}\n")
    change = "scales={quick: {tasks: {mnist_shards: {epochs: 3}}}}"
    monkeypatch.setattr(sys, "argv", ["arfl"])
    arguments = ["--configfile", str(more), "--config", change, "checkpoint_minutes=1"]
    assert cli.main(["train", "--cell", IDS, *arguments]) == 0
    made = record.read(small_project / f"results/quick/cells/{IDS}.json")
    assert (made["settings"]["task"]["lr"], made["settings"]["task"]["epochs"]) == (0.5, 3)
    assert made["settings"]["task"]["rounds"] == 1
    assert "--checkpoint-minutes 1 " in made["provenance"]["command"]


def test_long_json_may_stand_in_a_file(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["arfl"])
    (tmp_path / "cell.txt").write_text(json.dumps(CELL))
    arguments = train_arguments(folder, tmp_path / "cell.json")
    arguments[arguments.index("--cell") + 1] = f"@{tmp_path / 'cell.txt'}"
    assert cli.main(arguments) == 0
    made = record.read(tmp_path / "cell.json")
    assert made["cell"] == CELL
    assert "@" not in made["provenance"]["command"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--cell", IDS.replace("fedavg", "fedav")], f"did you mean {IDS}"),
        (["--cell", "mnist"], "mnist is not the id of a cell"),
        (["--cell", IDS, "--config", "scael=paper"], "unknown key scael; did you mean 'scale'?"),
        (["--cell", IDS, "--config", "scale"], "--config takes key=value, not 'scale'"),
        (["--cell", IDS, "--configfile", "none.yaml"], "none.yaml does not exist"),
        (["--cell", IDS, "--configfile", "broken.yaml"], "broken.yaml is not valid YAML (line 2)"),
        (["--cell", IDS.replace("1", "2")], "make it with: snakemake results/quick/partitions"),
        (["--cell", "{}", "--config", "scale=paper"], "go with a cell's id"),
        (["--cell", "{}"], "give --settings, --data, --partition, --kept, --out, or the id"),
    ],
)
def test_mistakes_about_a_cell_are_one_message(small_project, capsys, arguments, message):
    (small_project / "broken.yaml").write_text("a: 1\nb: ]\n")
    fails(capsys, ["train", *arguments], message)


def test_without_a_configuration_there_are_no_ids(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fails(capsys, ["train", "--cell", IDS], "there is no config.yaml in")


def test_the_version_is_the_packages(capsys):
    with pytest.raises(SystemExit) as raised:
        cli.main(["--version"])
    assert raised.value.code == 0
    assert capsys.readouterr().out == f"arfl {arfl.__version__}\n"
    assert f"version: {arfl.__version__}" in (ROOT / "CITATION.cff").read_text()


# The other verbs


def test_a_partition_is_written_with_its_picture(folder, tmp_path):
    assert partition(folder, tmp_path / "seed-1.npz") == 0
    assert sorted(file.name for file in tmp_path.iterdir()) == ["seed-1.npz", "seed-1.png"]


@pytest.mark.parametrize(
    ("scheme", "n_clients", "message"),
    [
        ('{"name": "random"}', "4", "unknown partition scheme 'random'"),
        ('{"name": "iid", "alpha": 1}', "4", "partition iid has no option 'alpha'"),
        ('{"name": "groups"}', "4", "made knows no groups"),
        ('{"name": "iid"}', "0", "at least one participant"),
        ('{"name": "iid"}', "61", "too few for 61 clients"),
    ],
)
def test_a_partition_that_cannot_be_is_one_message(
    folder, tmp_path, capsys, scheme, n_clients, message
):
    arguments = ["partition", "--data", folder / "data/meta.json", "--scheme", scheme, "--seed", 1]
    arguments += ["--n-clients", n_clients]
    arguments += ["--out", tmp_path / "a.npz", "--picture", tmp_path / "a.png"]
    fails(capsys, arguments, message)
    assert list(tmp_path.iterdir()) == []


def test_wrong_arguments_of_every_verb_are_one_message(folder, tmp_path, capsys):
    out, missing = ["--out", tmp_path / "out"], tmp_path / "missing"
    target = ["--plan", missing, "--target", "figure3"]
    for arguments, message in [
        (
            ["prepare", "--dataset", "imagenet", "--fetched", missing / "fetched.json"],
            "unknown dataset 'imagenet'",
        ),
        (
            [
                "prepare",
                "--dataset",
                "digits",
                "--fetched",
                missing / "fetched.json",
                "--options",
                '{"size": 1}',
            ],
            "dataset digits has no option 'size'; its options: seed",
        ),
        (["prepare", "--dataset", "mnist", "--fetched", missing / "fetched.json"], "missing"),
        (["download", "--dataset", "imagenet", "--sources", missing], "unknown dataset 'imagenet'"),
        (["download", "--dataset", "mnist", "--sources", missing], "missing"),
        (["collect", "--plan", missing, "--target", "figure3"], "missing does not exist"),
        (
            ["trigger", "--data", missing / "meta.json", "--options", "{}"],
            "meta.json does not exist",
        ),
        (["trigger", "--data", folder / "data/meta.json", "--options", "{}"], "target"),
        (["table", *target, "--collected", missing, "--paper", missing], "missing"),
        (["figure", *target, "--source", missing, "--paper", missing], "missing"),
        (["rounds", *target, "--collected", missing, "--paper", missing], "missing"),
        (["claims", "--collected", missing, "--paper", missing], "missing"),
        (
            ["report", "--plan", missing, "--collected", missing, "--claims", missing],
            "missing",
        ),
        (["index", "--claims", missing], "missing"),
        (["render", "--runs", missing, "--paper", missing], "missing"),
    ]:
        fails(capsys, [*arguments, *out], message)
        assert list(tmp_path.iterdir()) == [], arguments


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: verb"),
        (["fly"], "invalid choice: 'fly'"),
        (["plan", "--out", "x"], "the following arguments are required: --config"),
        (["plan", "--out", "x", "--config", "{"], "argument --config: not valid JSON"),
        (["plan", "--out", "x", "--config", "[1]"], "argument --config: not a JSON object"),
    ],
)
def test_argparse_refuses_what_is_no_command(arguments, message, capsys):
    with pytest.raises(SystemExit) as raised:
        cli.main(arguments)
    assert raised.value.code == 2
    assert message in capsys.readouterr().err


def test_the_studies_write_their_rows(tmp_path):
    assert cli.main(["confidence", "--out", str(tmp_path / "figure2.csv")]) == 0
    assert len((tmp_path / "figure2.csv").read_text().splitlines()) > 10


# The log


def run_module(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "arfl", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_log_opens_with_a_command_that_repeats_the_job(folder, tmp_path):
    arguments = train_arguments(folder, tmp_path / "cell.json")
    result = run_module(*arguments)
    first, *others = result.stderr.splitlines()
    assert first.startswith("$ python -m arfl train ")
    assert shlex.split(first)[1:] == ["python", "-m", "arfl", *arguments]
    assert result.returncode == 0
    assert result.stdout == ""
    # one line of progress at the end at least, with the share of what was right
    accuracy = record.read(tmp_path / "cell.json")["rounds"][-1]["accuracy"]
    assert f"{CELL['id']}: round 3/3, accuracy {100 * accuracy:.1f} %" in others[-1]


def test_a_failed_job_exits_with_status_two_after_its_command(tmp_path):
    result = run_module("collect", "--plan", "none.json", "--target", "a", "--out", tmp_path / "a")
    assert result.returncode == 2
    first, second = result.stderr.splitlines()
    assert first.startswith("$ python -m arfl collect --plan none.json")
    assert second == "error: none.json does not exist; run the step that makes it first"


def test_help_needs_no_heavy_library():
    code = (
        "import sys; from arfl import cli\n"
        "try: cli.main(['--help'])\n"
        "except SystemExit: pass\n"
        "print([m for m in ('torch', 'numpy', 'pandas', 'numba') if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.splitlines()[-1] == "[]"
