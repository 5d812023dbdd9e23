"""What colluding attacks share: models made from the honest ones of the round."""

from torch import Tensor

from arfl.attack import Attack, View


def mean_and_deviation(crowd: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (N,) and sample standard deviation (N,) of each parameter; 0 for a single model."""
    if len(crowd) == 1:
        return crowd[0], crowd[0] * 0
    return crowd.mean(0), crowd.std(0)


class Colluding(Attack):
    """All attackers send `vector`; where no honest model is finite, what they trained."""

    def vector(self, crowd: Tensor, view: View) -> Tensor:
        """The (N,) model that each attacker sends, or (A, N) if they differ.

        Args:
            crowd: (H, N) the finite honest models of the round, at least one.
            view: all that the attackers know.
        """
        raise NotImplementedError

    def collude(self, models, view):
        """See `Attack.collude`."""
        crowd = view.honest_models[view.honest_models.isfinite().all(1)]
        if not len(crowd):
            return models
        return self.vector(crowd, view).expand_as(models)
