"""Inner product manipulation (Xie et al. 2020): the honest update, turned round."""

from arfl.attacks._colluding import Colluding


class Ipm(Colluding):
    r"""Each attacker sends the update :math:`-\tau \frac{1}{H} \sum_h (M^{(h)} - M_{global})`.

    Args:
        meta: the prepared dataset's metadata.
        tau: τ, positive: small (0.5) to pass for one of the honest, large (2 and more) to turn the
            mean.

    References:
        Xie, Koyejo, Gupta, "Fall of empires: breaking Byzantine-tolerant SGD by inner product
        manipulation", UAI 2020.
    """

    def __init__(self, meta: dict, *, tau: float = 2.0):
        self._tau = tau

    def vector(self, crowd, view):
        """See `Colluding.vector`."""
        return view.global_model - self._tau * (crowd.mean(0) - view.global_model)
