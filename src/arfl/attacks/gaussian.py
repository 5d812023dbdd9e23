"""Gaussian noise (section 4.4): a corrupted client sends a multiplicatively distorted model."""

import torch

from arfl.attack import Attack


class Gaussian(Attack):
    """Each value of the submitted model is multiplied by its own draw from N(1, noise_std)."""

    def __init__(self, meta: dict, *, noise_std: float):
        self._noise_std = noise_std

    def submit(self, model, global_model, generator):
        """See `Attack.submit`."""
        # Drawn on the CPU so that the noise is the same whatever device trains.
        noise = torch.empty(model.shape).normal_(1.0, self._noise_std, generator=generator)
        return model * noise.to(model.device, model.dtype)
