"""How a network is trained and measured: two of a trial's tables of settings."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from model.collapse import COLLAPSED_MI_NATS
from model.config import MAX_DECODER_TOKENS


class TrainingSettings(BaseModel):
    """How the network is trained; epochs are the unit of everything that takes time."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    epochs: int = Field(default=20, ge=1, description="the most that a trial trains")
    num_sequences: int | None = Field(default=None, ge=1, description="train on so many, all if unset")
    batch_size: int = Field(default=32, ge=1, description="sequences in a batch")
    max_batch_tokens: int | None = Field(default=None, ge=2, description="batch by padded tokens instead")
    optimizer: Literal["sgd", "adam", "adamw"] = Field(default="adamw", description="what takes the steps")
    learning_rate: float = Field(default=1e-3, gt=0, description="the full one")
    weight_decay: float = Field(default=0.01, ge=0, description="of adamw only")
    warmup_fraction: float = Field(default=0.0, ge=0, lt=1, description="of training, in which the learning rate rises")
    decay: Literal["halving", "cosine", "none"] = Field(default="halving", description="of the learning rate")
    clip_norm: float = Field(default=5.0, gt=0, description="largest norm of a step's gradient")
    halving_patience: int = Field(default=2, ge=1, description="epochs without a better validation")
    first_halving_epoch: int = Field(default=15, ge=1, description="no halving of the learning rate before it")
    max_halvings: int = Field(default=5, ge=1, description="training ends when so many are spent")
    early_stop_patience: int | None = Field(
        default=None, ge=1, description="end after so many epochs without a better validation; never if unset"
    )
    precision: Literal["float32", "bfloat16"] = Field(
        default="float32", description="of training on a GPU; final numbers are always float32"
    )
    tf32: bool = Field(default=True, description="whether a GPU's float32 products may round so")
    cuda_graph: bool = Field(default=False, description="record a step once a shape and replay it, on a GPU")
    procedure: Literal["plain", "aggressive"] = Field(
        default="plain", description="aggressive: the encoder trains more than the decoder (He et al. 2019)"
    )
    pretraining_epochs: int = Field(default=0, ge=0, description="as an autoencoder, before the decoder is reset")
    device: str = Field(
        default="auto",
        pattern=r"^(auto|cpu|cuda(:\d+)?)$",
        description="auto: a GPU where the trial has a share of one",
    )
    checkpoint_minutes: float = Field(default=10.0, gt=0, description="between checkpoints within an epoch")

    @property
    def moves_every_step(self) -> bool:
        """Whether the learning rate is another one at each step."""
        return self.warmup_fraction > 0 or self.decay == "cosine"


class EvaluationSettings(BaseModel):
    """How validation is measured after each epoch, and when a trial counts as collapsed."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    num_sequences: int | None = Field(default=None, ge=2, description="validate on so many, all if unset")
    num_samples: int = Field(default=16, ge=1, description="importance samples a sequence, each epoch")
    final_num_samples: int = Field(default=500, ge=1, description="of `study evaluate`")
    final_tolerance_nats: float = Field(
        default=0.0, ge=0, description="stop sampling a sequence at this standard error; 0: never before the last"
    )
    final_widen: bool = Field(
        default=True, description="draw from a posterior drawn towards the prior where that makes more of the samples"
    )
    final_num_sequences: int | None = Field(
        default=None, ge=2, description="of a comparison's test split, all if unset"
    )
    batch_size: int = Field(default=64, ge=1, description="sequences in a batch")
    max_decoder_tokens: int = Field(
        default=MAX_DECODER_TOKENS, ge=1, description="decoded at once, which bounds memory"
    )
    criterion: Literal["nll", "elbo"] = Field(default="nll", description="by which epoch of a trial counts as its best")
    collapse_mi_nats: float = Field(
        default=COLLAPSED_MI_NATS,
        ge=0,
        description="collapsed below this MI, beyond its error; 0: never",
    )
    collapse_epochs: int = Field(
        default=3, ge=1, description="epochs at the final KL weight, collapsed in a row, that end a trial"
    )

    @model_validator(mode="before")
    @classmethod
    def _older_names(cls, given: object) -> object:
        # Of studies of 0.1, whose threshold was one of KL.
        if isinstance(given, dict) and "collapse_kl_nats" in given:
            given = dict(given)
            given["collapse_mi_nats"] = given.pop("collapse_kl_nats")
        return given
