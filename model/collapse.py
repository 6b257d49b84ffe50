"""What a collapsed posterior is; imports no torch, so that looking at a study does not either."""

COLLAPSED_KL_NATS = 0.1
"""A posterior with a KL below this and no active unit has collapsed, unless a setting says otherwise."""

ACTIVE_VARIANCE = 0.01
"""A latent dimension is active if its posterior mean varies by at least this over the inputs."""


def is_collapsed(kl_nats: float, num_active: int, kl_threshold_nats: float = COLLAPSED_KL_NATS) -> bool:
    """Say whether a posterior carries nothing: its KL is under the threshold and no unit is active."""
    return kl_nats < kl_threshold_nats and num_active == 0
