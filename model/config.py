"""The sizes and choices that rebuild a network and its objective, and its token ids; imports no torch."""

from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

from model.annealing import AnnealingSettings

PAD_ID, BOS_ID, EOS_ID, UNK_ID = range(4)

PoolingName = Literal["last", "first+last", "mean", "max", "max+mean", "logsumexp", "attention"]
POOLING_NAMES: tuple[str, ...] = get_args(PoolingName)


class NetworkSettings(BaseModel):
    """Sizes and choices of the network, beside the vocabulary's size."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    embedding_size: int = Field(default=128, ge=1, le=8192)
    hidden_size: int = Field(default=256, ge=1, le=16384)
    latent_size: int = Field(default=32, ge=1, le=4096)
    pooling: PoolingName = "max"
    pooling_temperature: float = Field(default=1.0, gt=0, description="of logsumexp pooling only")
    num_encoder_layers: int = Field(default=1, ge=1, le=8)
    bidirectional: bool = False
    latent_to_input: bool = True
    latent_to_state: bool = True
    input_dropout: float = Field(default=0.5, ge=0, lt=1)
    output_dropout: float = Field(default=0.5, ge=0, lt=1)
    word_dropout: float = Field(default=0.0, ge=0, le=1)
    init: Literal["default", "uniform"] = "default"

    @model_validator(mode="after")
    def _decoder_sees_latent(self) -> "NetworkSettings":
        if not (self.latent_to_input or self.latent_to_state):
            raise ValueError(
                "latent_to_input and latent_to_state are both false, so that the decoder would never"
                " see the latent variable; set one of them"
            )
        return self

    @property
    def features_size(self) -> int:
        """Size of the pooled feature vector."""
        steps_size = self.hidden_size * (2 if self.bidirectional else 1)
        return steps_size * (2 if self.pooling in ("first+last", "max+mean") else 1)


FreeBitsName = Literal["none", "total", "per-dimension", "batch-mean"]
FREE_BITS_NAMES: tuple[str, ...] = get_args(FreeBitsName)


class ObjectiveSettings(AnnealingSettings):
    """The KL weight's schedule and free bits; the two combine freely.

    `free_bits_nats` is the KL of a sequence that is not penalised: of the sum over dimensions
    (`total`), or split evenly over the dimensions and applied to each sequence's KL in each
    (`per-dimension`, Li et al., arXiv 1909.00868), or of the sum's mean over the batch (`batch-mean`).
    """

    free_bits: FreeBitsName = "none"
    free_bits_nats: float = Field(default=4.0, gt=0)
