"""The aggregation rules as strategies of Flower (flwr 1.42 or newer, an optional dependency).

Usage, in a ServerApp::

    from arfl.flower import Strategy

    strategy = Strategy("residual_reweighting", delta=0.01)
    result = strategy.start(grid=grid, initial_arrays=ArrayRecord(model.state_dict()))

Everything about sampling and evaluation is `flwr.serverapp.strategy.FedAvg`'s.
"""

import logging
from collections.abc import Iterable

import numpy as np

from arfl import aggregation
from arfl.errors import UserError
from arfl.flat import Form, flatten, unflatten

try:
    from flwr.app import Array, ArrayRecord, Message, MetricRecord
    from flwr.serverapp.strategy import FedAvg
except ImportError as error:
    raise UserError(f"arfl.flower needs flwr: pip install 'flwr>=1.42' ({error})") from None

_OWN = (
    "fraction_train", "fraction_evaluate", "min_train_nodes", "min_evaluate_nodes",
    "min_available_nodes", "weighted_by_key", "arrayrecord_key", "configrecord_key",
    "train_metrics_aggr_fn", "evaluate_metrics_aggr_fn",
)  # fmt: skip


def output_layer(form: Form) -> slice | None:
    """The last entry with two axes, the usual place of the output layer's weights; None without."""
    matrices = [name for name, entry in form.entries.items() if len(entry.shape) == 2]
    return form.slices[matrices[-1]] if matrices else None


class Strategy(FedAvg):
    """A rule of `arfl.aggregators` (or ``byzfl/...``) that combines what the clients send back.

    Rules with a memory (FoolsGold) know clients by their node's id, whatever the order of replies.
    Replies are put in the order of these ids first, so that the result does not depend on who
    answers when. Batch-norm statistics and counters are aggregated with the rest.

    Args:
        rule: name of the rule.
        n_attackers: the declared number of attackers, for rules that ask for it.
        output_layer: name of the output layer's weight matrix, FoolsGold's features; None for the
            last matrix.
        options: options of the rule, and arguments of FedAvg, by keyword.

    Attributes:
        weights: node id -> weight in the last round; None for rules that weigh no client.

    Raises:
        UserError: if the rule or an option is unknown.
    """

    def __init__(
        self,
        rule: str,
        *,
        n_attackers: int = 0,
        output_layer: str | None = None,
        **options: object,
    ):
        super().__init__(**{key: options.pop(key) for key in _OWN if key in options})
        self._rule_name = rule
        self._aggregate = aggregation.make(rule, **options)
        if self._aggregate.submission != "models":
            raise UserError(f"{rule}: Flower's clients send models; set update to models")
        self._n_attackers = n_attackers
        self._output_layer = output_layer
        self._start: ArrayRecord | None = None
        self.weights: dict[int, float] | None = None

    def summary(self) -> None:
        """Log the rule before FedAvg's own settings."""
        logging.getLogger("flwr").info("\t├──> Rule: %s", self._rule_name)
        super().summary()

    def configure_train(self, server_round, arrays, config, grid):
        """As FedAvg does; the global model is kept, since rules may look at it."""
        self._start = arrays
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Combine the models of the replies that carry one by the rule, metrics as FedAvg does.

        Raises:
            UserError: if the models differ in form from each other or the global model.
        """
        valid, _ = self._check_and_log_replies(replies, is_train=True)
        if not valid:
            return None, None
        valid = sorted(valid, key=lambda reply: reply.metadata.src_node_id)
        contents = [reply.content for reply in valid]
        records = [_first(content.array_records) for content in contents]
        start = records[0] if self._start is None else self._start
        try:
            rows, form = flatten([_arrays(record) for record in (start, *records)])
        except ValueError as error:
            raise UserError(f"the clients' models do not fit the global one: {error}") from None
        context = aggregation.Context(
            global_model=rows[0],
            client_ids=tuple(reply.metadata.src_node_id for reply in valid),
            sample_counts=tuple(
                int(_first(content.metric_records)[self.weighted_by_key]) for content in contents
            ),
            output_layer=self._features(form),
            buffers=form.buffers,
            n_attackers=self._n_attackers,
            round_number=server_round,
        )
        made = self._aggregate(rows[1:], context)
        if made.excluded:
            left_out = [context.client_ids[row] for row in made.excluded]
            logging.getLogger("flwr").warning("not finite and left out: nodes %s", left_out)
        self.weights = None
        if made.weights is not None:
            self.weights = dict(zip(context.client_ids, made.weights.tolist(), strict=True))
        arrays = {name: Array(value) for name, value in unflatten(made.model, form).items()}
        return ArrayRecord(arrays), self.train_metrics_aggr_fn(contents, self.weighted_by_key)

    def _features(self, form: Form) -> slice:
        if self._output_layer is None:
            return output_layer(form) or slice(None)
        if self._output_layer not in form.slices:
            raise UserError(
                f"output_layer is {self._output_layer!r}; the model has {[*form.slices]}"
            )
        return form.slices[self._output_layer]


def _first(records):
    return next(iter(records.values()))


def _arrays(record: ArrayRecord) -> dict[str, np.ndarray]:
    return {name: array.numpy() for name, array in record.items()}
