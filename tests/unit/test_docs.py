"""The documentation: pages made from files are current, and every command can be given."""

import importlib.util
import re
import shlex
from pathlib import Path

import pytest
import yaml

from arfl import cli
from arfl.grid import Grid
from arfl.reporting import targets

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"```(?:sh|console|bash)\n(?P<lines>.*?)```", re.DOTALL)
ASSIGNED = re.compile(r"[A-Z_]+=.*", re.DOTALL)
CONFIG = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))
MAKE_TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
# Commands of the shell and of other projects, with nothing of ours in them.
OTHERS = {
    "source",
    "cd",
    "git",
    "pip",
    "rm",
    "cp",
    "mkdir",
    "scancel",
    "sacctmgr",
    "apptainer",
    "tar",
}


def commands():
    """Page and words of every command in a block, without prompts, comments and variables."""
    found = []
    for page in PAGES:
        for block in BLOCK.finditer(page.read_text(encoding="utf-8")):
            for line in block["lines"].replace("\\\n", " ").splitlines():
                words = shlex.split(line.removeprefix("$ "), comments=True)
                while words and (ASSIGNED.fullmatch(words[0]) or words[0] == "nice"):
                    words = words[3 if words[0] == "nice" else 1 :]
                if words:
                    found.append(pytest.param(words, id=f"{page.name}: {shlex.join(words)[:70]}"))
    return found


def targets_of(scale):
    grid = Grid(CONFIG | {"scale": scale})
    points = {name: [p.x for p in points] for name, points in grid.points.items()}
    return {*targets.of_points(points), *grid.beyond, "all", "baselines"}


@pytest.mark.parametrize("words", commands())
def test_a_command_can_be_given(words):
    match words:
        case ["make", *rest]:
            assert {word for word in rest if "=" not in word} <= MAKE_TARGETS
        case ["python", "-m", "arfl", *rest] | ["arfl", *rest]:
            parse_verb(rest)
        case ["snakemake", *rest]:
            parse_snakemake(rest)
        case ["python" | "pytest" | "ruff", *rest]:
            files = [word for word in rest if re.search(r"\.(py|md)$|^tests/|^src/", word)]
            for file in files:
                assert (ROOT / file.partition("::")[0]).exists(), file
        case [other, *_]:
            assert other in OTHERS, f"nobody knows what {other} is"


def parse_verb(words):
    """What argparse takes, whatever files it names."""
    if words in (["--version"], ["--help"]):
        return
    try:
        options = cli._parser().parse_args(words)
    except SystemExit:
        raise AssertionError(words) from None
    if isinstance(getattr(options, "cell", None), str) and options.cell:
        Grid(CONFIG).cell(options.cell)


def parse_snakemake(words):
    """Snakemake's own parser takes it, with keys of config.yaml, and our targets or files."""
    from snakemake.cli import get_argument_parser

    parser = get_argument_parser()
    parser.error = _refuse
    options = parser.parse_args(words)
    given = dict(pair.partition("=")[::2] for pair in options.config or ())
    assert given.keys() <= CONFIG.keys(), words
    known = targets_of(given.get("scale", CONFIG["scale"]))
    assert all(target in known or "/" in target for target in options.targets), words
    for folder in (options.profile,) if isinstance(options.profile, str) else ():
        assert (ROOT / folder / "config.yaml").exists()


def _refuse(message):
    raise AssertionError(message)


def test_the_parsers_refuse_what_is_wrong():
    for words in (["train", "--cel", "a", "--fly"], ["trian"]):
        with pytest.raises(AssertionError):
            parse_verb(words)
    for words in (["--config", "scael=quick"], ["--no-such-option"], ["--", "figure33"]):
        with pytest.raises(AssertionError):
            parse_snakemake(words)


def test_links_lead_to_files():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
            if "://" not in target and not target.startswith("mailto:"):
                assert (page.parent / target).exists(), f"{page.name}: {target}"


def make_pages():
    path = ROOT / "docs/make_pages.py"
    spec = importlib.util.spec_from_file_location("make_pages", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_configuration_reference_is_current():
    made = make_pages().configuration()
    assert (ROOT / "docs/configuration.md").read_text(encoding="utf-8") == made, (
        "run python docs/make_pages.py"
    )
    # Every key of the configuration has its row.
    for key in CONFIG:
        assert re.search(rf"`{key}[.`\[]", made), key


@pytest.mark.parametrize("name", ["arfl.def", "Dockerfile"])
def test_an_image_that_was_never_built_says_so(name):
    text = (ROOT / "envs" / name).read_text(encoding="utf-8")
    assert text.startswith("# Untested")
    assert "--require-hashes -r /opt/requirements.lock" in text
