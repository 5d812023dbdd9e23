"""FoolsGold (Fung et al. 2018): clients whose summed updates point the same way learn less."""

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

from arfl.aggregation import SUBMISSIONS, InRounds, rule
from arfl.errors import UserError
from arfl.kernels.backend import backend

_BUFFERS = ("frozen", "averaged")


def check(*, buffers: str, update: str) -> None:
    """Refuse an unknown treatment of the buffers, or kind of update.

    Raises:
        UserError: naming the option and the choices.
    """
    for name, value, choices in (("buffers", buffers, _BUFFERS), ("update", update, SUBMISSIONS)):
        if value not in choices:
            raise UserError(f"foolsgold: {name} must be one of {', '.join(choices)}, got {value!r}")


def learning_rates(history: Tensor) -> Tensor:
    """FoolsGold's α (K,) in [0, 1] of summed updates (K, F), in float64.

    Cosine similarities, pardoning, rescaling to a maximum of 1, logit. If every client has a twin,
    all are equally suspect, the rescaling is 0/0, and all get its symmetric limit, 1.
    """
    lengths = history.norm(dim=1, keepdim=True)
    directions = torch.where(lengths > 0, history / lengths, 0)
    similarity = (directions @ directions.T).clamp(-1, 1).fill_diagonal_(0)
    nearest = similarity.amax(dim=1)
    # Pardoning: an honest client that resembles a sybil resembles it less than sybils each other.
    pardoned = nearest[:, None] < nearest[None, :]
    ratio = torch.where(pardoned, nearest[:, None] / nearest[None, :], 1)
    diversity = (1 - (similarity * ratio).amax(dim=1)).clamp(0, 1)
    # What rounding leaves of the distance between twins is no diversity.
    diversity = torch.where(diversity > 1e-12, diversity, 0)
    most = diversity.amax()
    rate = (torch.logit(diversity / most) + 0.5).clamp(0, 1)
    return torch.where(most > 0, rate, 1)


class _InRounds(InRounds):
    def __init__(self, *, buffers: str = "averaged", update: str = "models"):
        """See `foolsgold` for ``buffers``.

        ``update="gradients"`` is what the authors' code does: clients send the sum of their local
        steps' gradients, which the server applies at the honest learning rate, so that an
        attacker's higher rate and every client's momentum drop out.
        """
        self.submission = update
        self._buffers = buffers
        self._memory: dict[int, Tensor] = {}

    def combine(self, models, context):
        return foolsgold.combine(
            models,
            context.global_model,
            client_ids=context.client_ids,
            output_layer=context.output_layer,
            buffer_slices=context.buffers,
            memory=self._memory,
            buffers=self._buffers,
        )

    def state(self):
        if not self._memory:
            return {}
        return {
            "clients": torch.tensor(list(self._memory)),
            "updates": torch.stack(list(self._memory.values())),
        }

    def restore(self, state):
        if state:
            clients = state["clients"].tolist()
            self._memory = dict(zip(clients, state["updates"], strict=True))


@rule("client_ids", check=check, in_rounds=_InRounds)
def foolsgold(
    models: Tensor,
    global_model: Tensor,
    *,
    client_ids: Sequence[Hashable] | None = None,
    output_layer: slice | None = None,
    buffer_slices: Sequence[slice] = (),
    memory: dict[Hashable, Tensor] | None = None,
    buffers: str = "averaged",
) -> tuple[Tensor, Tensor]:
    r"""One round of FoolsGold.

    A client's history is the sum of its updates so far on the output layer's weights. Its learning
    rate :math:`\alpha_k` falls from 1 to 0 with the cosine similarity to its nearest client
    (Fung et al., Algorithm 1: pardoning, division by the maximum, logit with confidence 1). Then

    .. math:: M = M_{global} + \frac{1}{K} \sum_k \alpha_k (M^{(k)} - M_{global}).

    α is a client's learning rate, so what a suspect loses is not handed to the others. Fung et al.
    write a sum of single gradient steps; of models trained for epochs that would be K times
    FedAvg's step, so the mean is taken here, as in the code of the residual-reweighting paper.

    Cost O(K N + K² F) for F output-layer weights. No breakdown point: it counts on attackers being
    alike, whatever their number, and one attacker alone passes.

    Args:
        models: (K, N) float32 or float64, one model a row. Rows with a NaN or an infinity are
            left out, with weight 0, and their clients' history stays as it was.
        global_model: (N,) the model that the clients started from.
        client_ids: (K,) who sent each row, the key of ``memory``; None means 0..K-1.
        output_layer: the columns of the output layer's weight matrix; None compares all columns.
        buffer_slices: the columns of batch-norm running statistics.
        memory: client id to the float64 sum of its updates. Updated in place: pass one dict to all
            rounds of a run. None compares this round's updates alone.
        buffers: "averaged" sets running statistics to the average over the clients, weighted by α;
            "frozen" leaves them as they are in ``global_model``, as a gradient step does: a
            network trained from scratch is then evaluated with the statistics it started with,
            and fails although its weights have learnt.

    Returns:
        The (N,) model and the (K,) weights α / Σα, which sum to one.

    Raises:
        UserError: if ``buffers`` is unknown.
        ValueError: if shapes do not agree or a client appears twice.
        NoFiniteModelError: if no model is finite.

    References:
        Fung, Yoon, Beschastnikh, "Mitigating sybils in federated learning poisoning",
        arXiv:1808.04866.
    """
    check(buffers=buffers, update="models")
    if global_model.shape != models.shape[1:]:
        raise ValueError(
            f"global_model has shape {tuple(global_model.shape)}, models {tuple(models.shape)}"
        )
    client_ids = range(len(models)) if client_ids is None else client_ids
    if len(set(client_ids)) < len(client_ids):
        raise ValueError(f"a client appears twice in client_ids {list(client_ids)}")
    features = slice(None) if output_layer is None else output_layer
    updates = models[:, features].double() - global_model[features].double()
    memory = {} if memory is None else memory
    for client, update in zip(client_ids, updates, strict=True):
        memory[client] = memory[client] + update if client in memory else update.clone()
    rates = learning_rates(torch.stack([memory[client] for client in client_ids]))
    # The step as a weighted sum of whole models: what α leaves over goes to the global model.
    weighted_sum = backend(models).weighted_sum
    step = rates / len(models)
    model = weighted_sum(models, step) + (1 - step.sum()).to(models.dtype) * global_model
    # The most diverse client has rate 1, so the sum is never 0.
    weights = rates / rates.sum()
    for columns in buffer_slices:
        if buffers == "frozen":
            model[columns] = global_model[columns]
        else:
            model[columns] = weights.to(models.dtype) @ models[:, columns]
    return model, weights.to(models.dtype)
