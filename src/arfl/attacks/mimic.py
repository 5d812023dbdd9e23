"""Mimic (Karimireddy et al. 2022): all attackers copy one honest client, who then counts double."""

from arfl.attacks._colluding import Colluding
from arfl.errors import UserError


class Mimic(Colluding):
    """Each attacker sends the model of the same honest client.

    It breaks no single model, and makes one client's data outweigh the others' where these differ.

    Args:
        meta: the prepared dataset's metadata.
        client: the copied client's place among the honest clients of the round, from 0; of fewer
            the last.

    Raises:
        UserError: if ``client`` is negative.

    References:
        Karimireddy, He, Jaggi, "Byzantine-robust learning on heterogeneous datasets via
        bucketing", ICLR 2022; with a fixed client, as in the library byzfl.
    """

    def __init__(self, meta: dict, *, client: int = 0):
        if client < 0:
            raise UserError(f"mimic: client is a place from 0, got {client}")
        self._client = client

    def vector(self, crowd, view):
        """See `Colluding.vector`."""
        return crowd[min(self._client, len(crowd) - 1)]
