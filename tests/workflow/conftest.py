"""A copy of the project in a temporary folder, with a grid so small that it trains in seconds."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
CELLS, KEPT = "results/quick/cells", "results/quick/kept"
PARTS = ("Snakefile", "config.yaml", "workflow", "profiles", "envs", "src")


class Project:
    """A runnable copy of the project."""

    def __init__(self, folder: Path):
        self.folder = folder
        for part in PARTS:
            source = ROOT / part
            copy = shutil.copytree if source.is_dir() else shutil.copy2
            copy(source, folder / part)

    @property
    def environment(self) -> dict:
        environment = {k: v for k, v in os.environ.items() if k != "ARFL_DATA_MIRROR"}
        environment["PATH"] = os.pathsep.join(
            [str(Path(sys.executable).parent), os.environ["PATH"]]
        )
        return environment

    def snakemake(self, *arguments: str, check: bool = True, timeout=300, **variables) -> str:
        """Run Snakemake and return what it printed."""
        result = subprocess.run(
            ["snakemake", "--cores", "2", *arguments],
            cwd=self.folder,
            env=self.environment | variables,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        output = result.stdout + result.stderr
        if check:
            assert result.returncode == 0, output
        else:
            assert result.returncode != 0, output
        return output

    def planned(self, *arguments: str) -> dict[str, int]:
        """Rule -> number of jobs of a dry run."""
        output = self.snakemake("-n", "--quiet=rules", *arguments)
        jobs = {}
        for line in output.splitlines():
            words = line.split()
            if len(words) == 2 and words[1].isdigit():
                jobs[words[0]] = int(words[1])
        return jobs

    def results(self) -> dict[str, dict]:
        """Cell -> all of its record that two runs of it must share."""
        own = ("seconds", "provenance", "digest")
        found = {}
        for path in (self.folder / CELLS).rglob("seed-*.json"):
            content = json.loads(path.read_text())
            found[content["cell"]["id"]] = {k: v for k, v in content.items() if k not in own}
        return found

    def kept(self) -> dict[str, bytes]:
        """Path below ``kept`` -> the bytes of that finished record."""
        place = self.folder / KEPT
        files = sorted(place.rglob("seed-1.json"))
        return {str(path.relative_to(place)): path.read_bytes() for path in files}

    def change_config(self, change) -> None:
        """Apply a function to the configuration and write it back."""
        path = self.folder / "config.yaml"
        config = yaml.safe_load(path.read_text())
        change(config)
        path.write_text(yaml.safe_dump(config, sort_keys=False))

    def changed_lines(self, name: str, old: str, new: str) -> None:
        """Replace text in a file of the copy."""
        path = self.folder / name
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))


def keep_aggregators(config: dict, *names: str) -> None:
    """Leave these aggregators, and nothing that names another one."""
    config["aggregators"] = {name: config["aggregators"][name] for name in names}
    quick = config["scales"]["quick"]
    quick["targets"]["readings"] = []
    for beyond in (config["beyond"], quick["beyond"]):
        for target in set(beyond) - {"leaderboard"}:
            del beyond[target]
    for protocol in config["protocols"].values():
        protocol.pop("aggregators", None)


def reduce_to_tiny(config: dict) -> None:
    """Two aggregators, one seed, one round."""
    config["seeds"] = [1]
    keep_aggregators(config, "fedavg", "residual_reweighting")
    quick = config["scales"]["quick"]
    quick["tasks"]["mnist_shards"].update(rounds=1, epochs=1)
    quick["targets"]["figure3"][0]["n_attackers"] = [0, 2]
    quick["targets"]["table4"][0]["vary"]["values"] = [0, 1]


@pytest.fixture
def project(tmp_path) -> Project:
    """The project as it is, in a folder of its own."""
    return Project(tmp_path)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Project:
    """A project of two aggregators, one seed and one round; figure3 has been run."""
    project = Project(tmp_path_factory.mktemp("tiny"))
    project.change_config(reduce_to_tiny)
    project.snakemake("figure3")
    return project
