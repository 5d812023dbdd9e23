# Where the workflow's own files lie: here, or elsewhere where another workflow uses this one as a
# module, also from a repository that Snakemake keeps as a bare clone.

import os
import sys
import tarfile
import tempfile
from pathlib import Path

from snakemake.exceptions import WorkflowError


def unpacked(hosted):
    """A folder with the files of a hosted repository's version, in which Python finds modules."""
    repository = hosted.hosted_repo.repo
    version = repository.commit(hosted.ref).hexsha
    folder = Path(".snakemake/arfl", version)
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        # Jobs parse this too: whoever is first puts a whole folder in place.
        with tempfile.TemporaryDirectory(dir=folder.parent) as made:
            archive = Path(made, "arfl.tar")
            with archive.open("wb") as stream:
                repository.archive(stream, version)
            with tarfile.open(archive) as packed:
                packed.extractall(Path(made, "arfl"), filter="data")
            try:
                Path(made, "arfl").rename(folder)
            except OSError:
                if not folder.exists():
                    raise
    return folder.resolve()


HERE = workflow.current_basedir
BASE = Path(str(HERE)).parents[1] if HERE.is_local else unpacked(HERE)
SOURCE = BASE / "src"


def own(path):
    """A file of the workflow as rules name it.

    In its own folder relative, so that the folder can be moved and nothing is done again. Elsewhere
    braces in the folder's name are no wildcards.
    """
    if BASE == Path.cwd():
        return path
    return str(BASE / path).replace("{", "{{").replace("}", "}}")


# The user's configuration where there is one, as snakedeploy lays it out or as here.
CONFIGURATION = next(
    (name for name in ("config.yaml", "config/config.yaml") if os.path.exists(name)),
    str(BASE / "config.yaml"),
)
