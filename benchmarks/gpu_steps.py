"""The measurements of `on_gpu.py`, each in a process of its own: one step, its result as JSON.

    python benchmarks/gpu_steps.py STEP --plan PLAN --data FOLDER --device cuda --out FILE.json

Needs the package's source, torch, NumPy and SciPy. ``--tiny`` takes sizes at which a CPU can do the
same in seconds.
"""

import argparse
import copy
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F

from arfl import aggregation, cell, dataset, federation, numerics, partition, torch_training
from arfl.device_data import crop
from arfl.local_training import epochs
from arfl.networks import resnet18

RULES = ("fedavg", "median", "trimmed_mean", "repeated_median", "residual_reweighting")
RESNET18, CNN, FASTTEXT = 11_183_562, 3_146, 2_500_101
CAP = 10
"""Batches of an epoch where a whole round would take a loop over clients minutes."""


def one_cell_a_task(plan, data):
    """Task -> (cell, settings) of its first cell with attackers, for the tasks with data here."""
    chosen = {}
    for points in plan["targets"].values():
        for point in points:
            described, settings = point["cell"], plan["settings"][point["settings"]]
            task = described["task"]
            there = (data / settings["task"]["data"] / "meta.json").exists()
            known = chosen.get(task)
            if there and (known is None or (not known[0]["n_attackers"] and settings["attack"])):
                chosen[task] = (described, settings)
    return chosen


def scenario_of(described, settings, data, device):
    task = settings["task"]
    prepared = dataset.load(data / task["data"])
    divided = partition.make(prepared, task["partition"], task["n_clients"], described["seed"])
    return federation.Scenario(
        settings, described["n_attackers"], described["seed"], prepared, divided, device
    )


def changed(settings, **task):
    settings = copy.deepcopy(settings)
    settings["task"] |= task
    return settings


def wait(device):
    if device.type == "cuda":
        torch.cuda.synchronize()


def timed(function, device, n):
    """Seconds of ``n`` calls, after one that is not timed."""
    function()
    seconds = []
    for _ in range(n):
        wait(device)
        start = time.perf_counter()
        function()
        wait(device)
        seconds.append(time.perf_counter() - start)
    return seconds


def machine(arguments, device):
    """What the measurements were made on."""
    found = {"python": sys.version.split()[0], "torch": torch.__version__, "device": device.type}
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found |= {"gpu": properties.name, "gib": round(properties.total_memory / 2**30)}
        found |= {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
    return found


def agreement(arguments, device):
    """Records of a small cell of each task on the CPU and on the device, number by number."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        for task, (described, settings) in one_cell_a_task(arguments.plan, arguments.data).items():
            small = changed(settings, rounds=2, epochs=1, max_batches_per_epoch=2)
            meta = arguments.data / small["task"]["data"] / "meta.json"
            divided = folder / f"{task}.npz"
            partition.make(
                dataset.load(meta.parent),
                small["task"]["partition"],
                small["task"]["n_clients"],
                described["seed"],
            ).save(divided)
            records = []
            for where in ("cpu", device.type):
                out = folder / f"{task}-{len(records)}.json"
                kept = folder / f"{task}-{len(records)}-kept.json"
                cell.train(described, small, meta, divided, where, 60, kept, out)
                records.append(json.loads(out.read_text()))
            found[task] = compare(*records)
    return found


def compare(one, other):
    """How far apart two records of a cell are."""
    same = all(one[key] == other[key] for key in ("partition", "clients", "diverged", "seeds"))
    apart = {"same_but_for_rounding": same, "backends": other["provenance"]["backends"]}
    for key in ("accuracy", "attack_success_rate", "weights"):
        pairs = [(a[key], b[key]) for a, b in zip(one["rounds"], other["rounds"], strict=True)]
        pairs = [(a, b) for a, b in pairs if a is not None]
        if key == "weights":
            pairs = [pair for a, b in pairs for pair in zip(a, b, strict=True)]
        apart[key] = max((abs(a - b) for a, b in pairs), default=None)
    return apart


def aggregate(arguments, device):
    """Seconds of each rule, at the sizes of the paper's networks and numbers of clients."""
    sizes = [(10, RESNET18), (100, CNN), (10, FASTTEXT), (10, CNN)]
    sizes = [(10, 20_000), (20, 6_000)] if arguments.tiny else sizes
    found = []
    for n_clients, n_parameters in sizes:
        models = torch.randn(n_clients, n_parameters, device=device)
        context = aggregation.Context(
            global_model=models[0] * 0.5,
            client_ids=tuple(range(n_clients)),
            sample_counts=(1,) * n_clients,
            output_layer=slice(0, 1000),
            buffers=(),
        )
        for name in (*RULES, "foolsgold"):
            options = {"share": 0.2} if name == "trimmed_mean" else {}
            rule = aggregation.make(name, **options)
            first = time.perf_counter()
            rule(models, context)
            wait(device)
            first = time.perf_counter() - first
            seconds = timed(
                lambda rule=rule, models=models, context=context: rule(models, context),
                device,
                2 if arguments.tiny else 7,
            )
            found.append(
                {
                    "rule": name,
                    "K": n_clients,
                    "N": n_parameters,
                    "first": first,
                    "median": statistics.median(seconds),
                    "least": min(seconds),
                    "n": len(seconds),
                }
            )
    return found


def plain_loop(scenario, clients):
    """One client after another with `torch.optim`, as one would write it: their models."""
    network, data, task = scenario.network, scenario.data, scenario.task
    local = scenario.local_training
    ends = []
    for client in clients:
        flat = scenario.start().global_model.unsqueeze(0)
        names = network.layout.buffer_names
        tensors = {name: view.clone() for name, view in network.layout.views(flat).items()}
        parameters = [tensors[name].requires_grad_() for name in tensors if name not in names]
        if task["optimizer"] == "adam":
            optimizer = torch.optim.Adam(parameters, lr=client.lr)
        else:
            optimizer = torch.optim.SGD(parameters, lr=client.lr, momentum=task["momentum"])
        for epoch in epochs(client, local._settings, network, scenario.seed, 1):
            start = 0
            for size in epoch.batch_sizes.tolist():
                part = slice(start, start + size)
                start += size
                indices = torch.from_numpy(epoch.order[part]).to(data.device)
                x, y = data.stored(indices), data.labels(indices)
                if epoch.crops is not None:
                    x = crop(x, torch.from_numpy(epoch.crops[part]).to(data.device))
                x, y = data.inputs(x).unsqueeze(0), y.unsqueeze(0)
                if client.attacker is not None:
                    x, y = scenario.attack.poison(x, y, (client.attacker,))
                keep = epoch.keep
                if keep is not None:
                    keep = torch.from_numpy(keep[part]).to(data.device).unsqueeze(0)
                logits = network.forward(tensors, x, training=True, keep=keep)[0]
                if network.binary:
                    loss = F.binary_cross_entropy_with_logits(logits[:, 0], y[0].float())
                else:
                    loss = F.cross_entropy(logits, y[0])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        ends.append(torch.cat([tensors[name].detach().flatten() for name in network.layout.shapes]))
    return torch.stack(ends)


def seconds_of_rounds(scenario, n):
    """Seconds a round in each phase, over the ``n`` rounds after a first one."""
    states = []
    scenario.task["rounds"] = n + 1
    federation.train(scenario, scenario.start(), states.append)
    if len(states) < 2:
        return None
    first, last = states[0].seconds, states[-1].seconds
    return {phase: (last[phase] - first[phase]) / (len(states) - 1) for phase in last}


def steps_of(scenario, cap):
    """The most batches that a client has in a round, and those of all clients together."""
    settings = scenario.local_training._settings
    each = []
    for client in scenario.clients(1):
        an_epoch = -(-len(client.samples) // settings.batch_size)
        each.append(client.epochs * min(an_epoch, cap or an_epoch))
    return max(each), sum(each)


def speed(arguments, device):
    """Seconds a round of each task: whole (estimated if long), and capped beside a plain loop."""
    found = {}
    for task, (described, settings) in one_cell_a_task(arguments.plan, arguments.data).items():
        if device.type == "cpu" and settings["task"]["model"] == "resnet18":
            continue
        cap = 2 if arguments.tiny else CAP
        limited = changed(settings, max_batches_per_epoch=cap, epochs=1)
        scenario = scenario_of(described, limited, arguments.data, device)
        capped = seconds_of_rounds(scenario, 2)
        if capped is None:
            found[task] = {"note": "the capped cell diverged in its first rounds"}
            continue
        whole = scenario_of(described, changed(settings), arguments.data, device)
        joint = scenario.network.joint and device.type == "cuda"
        per_step = int(not joint)
        ratio = steps_of(whole, settings["task"]["max_batches_per_epoch"])[per_step]
        ratio /= max(1, steps_of(scenario, cap)[per_step])
        rest = capped["aggregation"] + capped["evaluation"]
        entry = {"capped": capped, "whole_estimated": capped["training"] * ratio + rest}
        if entry["whole_estimated"] < (0.2 if arguments.tiny else 15):
            measured = seconds_of_rounds(whole, 1)
            entry["whole"] = measured and sum(measured.values())
        if not arguments.without_loop:
            start = scenario.start().global_model
            clients = scenario.clients(1)
            scenario.local_training.train(start, clients, 1, "models")
            ours = timed(
                lambda s=scenario, m=start, c=clients: s.local_training.train(m, c, 1, "models"),
                device,
                2,
            )
            plain_loop(scenario, clients[:1])
            wait(device)
            begun = time.perf_counter()
            expected = plain_loop(scenario, clients)
            wait(device)
            loop = time.perf_counter() - begun
            trained = scenario.local_training.train(start, clients, 1, "models")
            entry["training_beside_loop"] = {
                "ours": min(ours),
                "loop": loop,
                "ratio": loop / min(ours),
                "steps_of_loop": steps_of(scenario, cap)[1],
                "models_differ_by": float((trained - expected).abs().max()),
            }
        found[task] = entry
    return found


def choices(arguments, device):
    """The forms between which a rule chooses: of the CNN's convolutions, of ResNet's memory."""
    found = {}
    for task, (described, settings) in one_cell_a_task(arguments.plan, arguments.data).items():
        model = settings["task"]["model"]
        if model not in ("cnn", "resnet18") or model in found:
            continue
        limited = changed(settings, max_batches_per_epoch=2, epochs=1)
        scenario = scenario_of(described, limited, arguments.data, device)
        start, clients = scenario.start().global_model, scenario.clients(1)
        clients = clients[:2] if model == "resnet18" or arguments.tiny else clients
        work = [
            (c, list(epochs(c, scenario.local_training._settings, scenario.network, 1, 1)))
            for c in clients
        ]

        def train(scenario=scenario, start=start, work=work):
            local = scenario.local_training._settings
            torch_training.train_clients(
                scenario.network, scenario.data, start, work, local, scenario.attack
            )

        usual = torch_training._forward, resnet18.GPU_FORMAT
        forms = {"as chosen": usual}
        if model == "cnn":
            forms["grouped convolution"] = (lambda network, device: network.forward), usual[1]
        else:
            forms["contiguous"] = usual[0], torch.contiguous_format
            forms["channels last"] = usual[0], torch.channels_last
        found[model] = {"task": task}
        try:
            for name, (forward, layout) in forms.items():
                torch_training._forward, resnet18.GPU_FORMAT = forward, layout
                found[model][name] = min(timed(train, device, 1 if arguments.tiny else 3))
        finally:
            torch_training._forward, resnet18.GPU_FORMAT = usual
    return found


def rounds(arguments, device):
    """Rounds in ``--seconds`` of the capped cell of ``--task``, after a line on the input."""
    described, settings = one_cell_a_task(arguments.plan, arguments.data)[arguments.task]
    scenario = scenario_of(
        described, changed(settings, max_batches_per_epoch=CAP, epochs=1), arguments.data, device
    )
    state = scenario.start()
    clients = scenario.clients(1)
    scenario.local_training.train(state.global_model, clients, 1, "models")
    wait(device)
    print("ready", flush=True)
    sys.stdin.readline()
    done, start = 0, time.perf_counter()
    while time.perf_counter() - start < arguments.seconds:
        models = scenario.local_training.train(state.global_model, clients, 1, "models")
        result = scenario.aggregate(models, scenario.context(clients, state.global_model, 1))
        scenario.evaluate(result.model)
        done += 1
    return {"rounds": done, "seconds": time.perf_counter() - start}


STEPS = {step.__name__: step for step in (machine, agreement, aggregate, speed, choices, rounds)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("step", choices=STEPS)
    parser.add_argument("--plan", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--device", choices=("cpu", "cuda"), required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--without-loop", action="store_true")
    parser.add_argument("--task")
    parser.add_argument("--seconds", type=float)
    arguments = parser.parse_args()
    arguments.plan = json.loads(arguments.plan.read_text())
    result = STEPS[arguments.step](arguments, numerics.set_up(arguments.device))
    arguments.out.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
