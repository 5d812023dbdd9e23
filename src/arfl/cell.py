"""What `train` does for one cell: verify, go on from a checkpoint, train, leave a record.

A finished record is kept a second time beside the workflow's output. Snakemake deletes the outputs
of a job that failed, with a whole group on a cluster; the kept record is taken up again when cell,
settings, data, partition and code agree, so that nothing is trained twice.
"""

import hashlib
import json
import logging
import signal
import time
from datetime import UTC, datetime
from pathlib import Path

from arfl import fingerprint as fingerprints
from arfl import record
from arfl.files import alone


def code_of(settings: dict, device: str) -> str:
    """Fingerprint of the code that trains a cell with these settings on "cpu" or "cuda"."""
    attack = settings["attack"]
    return fingerprints.of_cell(
        settings["task"]["model"],
        attack and attack["rule"],
        settings["aggregator"]["rule"],
        device,
    )


def _take_up(kept: Path, cell: dict, settings: dict, data: dict, partition: str) -> dict | None:
    """The kept record if it is whole and belongs to this cell as it is now."""
    if not kept.exists():
        return None
    try:
        content = record.read(kept)
    except record.BrokenRecordError as error:
        logging.warning("the kept record is broken and not used: %s", error)
        return None
    origin = content["provenance"]
    agrees = (
        content["cell"] == cell
        and content["settings"] == settings
        and record.is_same_data(content["data"], data)
        and content["partition"] == partition
        and origin["fingerprint"] == code_of(settings, origin["device"])
    )
    return content if agrees else None


def train(
    cell: dict,
    settings: dict,
    data: Path,
    partition: Path,
    device: str,
    checkpoint_minutes: float,
    kept: Path,
    out: Path,
) -> None:
    """Train one cell and write its record.

    Args:
        cell: as `arfl.grid.Cell.describe` gives it.
        settings: the resolved settings.
        data: ``meta.json`` of the prepared data.
        partition: the partition file.
        device: "auto", "cpu" or "cuda".
        checkpoint_minutes: how often the state is saved.
        kept: where the record is kept a second time; the checkpoint lies beside it.
        out: the record.

    Raises:
        UserError: if data or partition are damaged or not this cell's, or the settings do not fit.
        KeyboardInterrupt: after a signal to stop, with the state saved.
    """
    from arfl import dataset as datasets
    from arfl import partition as partitions

    # Content and not only sizes: reading it once costs less than a round.
    prepared = datasets.load(data.parent, verify=True)
    divided = partitions.load(partition, prepared)
    task = settings["task"]
    partitions.check_made_for(
        divided, partition, task["partition"], task["n_clients"], cell["seed"]
    )
    # Where Snakemake was killed its jobs live on: wait for such a training instead of repeating it.
    with alone(kept.with_suffix(".lock")):
        described = record.describe_data(prepared.meta, task["dataset"])
        content = _take_up(kept, cell, settings, described, divided.digest)
        if content is not None:
            logging.info("%s: taken up from %s, not trained again", cell["id"], kept)
            record.write(out, content)
            return
        content = _train(cell, settings, prepared, divided, device, checkpoint_minutes, kept)
        record.write(kept, content)
        record.write(out, content)
        _checkpoint_of(kept).unlink(missing_ok=True)


def _checkpoint_of(kept: Path) -> Path:
    return kept.with_suffix(".checkpoint.npz")


def _train(
    cell: dict,
    settings: dict,
    prepared,
    divided,
    device: str,
    checkpoint_minutes: float,
    kept: Path,
) -> dict:
    import torch

    from arfl import checkpoint, federation, numerics
    from arfl.progress import Progress

    started = datetime.now(UTC).isoformat(timespec="seconds")
    chosen = numerics.set_up(device)
    scenario = federation.Scenario(
        settings, cell["n_attackers"], cell["seed"], prepared, divided, chosen
    )
    code = code_of(settings, chosen.type)
    path = _checkpoint_of(kept)
    agreed = [cell, settings, prepared.checksum, divided.digest, code, chosen.type]
    key = hashlib.sha256(json.dumps(agreed, sort_keys=True).encode()).hexdigest()
    state, resumed = scenario.start(), 0
    found = checkpoint.load(path, key, chosen)
    if found is not None:
        state, resumed = found[0], found[1] + 1
        logging.info("%s: goes on after round %d", cell["id"], len(state.rounds))

    progress = Progress(cell["id"], task_rounds := settings["task"]["rounds"], len(state.rounds))
    latest, saved = state, time.monotonic()

    def after_round(reached) -> None:
        nonlocal latest, saved
        latest = reached
        if reached.diverged is None:
            progress(reached.rounds[-1])
        finished = len(reached.rounds) == task_rounds
        if not finished and time.monotonic() - saved > 60 * checkpoint_minutes:
            checkpoint.save(path, key, reached, resumed)
            saved = time.monotonic()

    try:
        state = federation.train(scenario, state, after_round)
    except KeyboardInterrupt:
        # A second signal must not cut the saving short.
        for stop in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
            signal.signal(stop, signal.SIG_IGN)
        if latest.rounds:
            checkpoint.save(path, key, latest, resumed)
            logging.info("%s: state after round %d is saved", cell["id"], len(latest.rounds))
        raise
    if state.diverged is not None:
        logging.warning("%s: diverged in round %d: %s", cell["id"], *state.diverged.values())
    trained = {
        "diverged": state.diverged,
        "clients": scenario.describe_clients(),
        "rounds": state.rounds,
        "seconds": state.seconds | {"total": sum(state.seconds.values())},
    }
    origin = record.provenance(
        chosen.type,
        torch.cuda.get_device_name(chosen) if chosen.type == "cuda" else None,
        torch.get_num_threads(),
        code,
        scenario.backends(state),
        resumed,
    ) | {"started": started}
    described = record.describe_data(prepared.meta, settings["task"]["dataset"])
    return record.make(cell, settings, described, divided.digest, trained, origin)
