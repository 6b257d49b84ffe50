"""The sizes and choices that rebuild a network and its objective, and its token ids; imports no torch."""

from collections.abc import Callable, Mapping
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydantic.config import JsonDict

from model.annealing import AnnealingSettings
from model.registry import DECODERS, ENCODERS, POOLINGS

PAD_ID, BOS_ID, EOS_ID, UNK_ID = range(4)

EVALUATION_ROWS = 2048
"""Targets whose logits are held at once when no gradient is needed."""

MAX_DECODER_TOKENS = 16_384
"""Tokens that an estimate of likelihood decodes at once unless told otherwise."""

LONGEST = 512
"""Tokens that a network has learned positions for unless told otherwise."""

PosteriorName = Literal["gaussian", "batch-norm", "scaled", "delta", "von-mises-fisher", "none"]


def one_of(registry: Mapping[str, object]) -> AfterValidator:
    """Return what refuses a name that is not in a registry by the time that it is asked."""

    def check(name: str) -> str:
        if name not in registry:
            raise ValueError(f"expected one of {', '.join(registry)}")
        return name

    return AfterValidator(check)


def names_of(registry: Mapping[str, object]) -> Callable[[JsonDict], None]:
    """Return what names a registry's entries in a setting's JSON schema, those of the time that it is asked."""

    def name(schema: JsonDict) -> None:
        schema["enum"] = list(registry)

    return name


class NetworkSettings(BaseModel):
    """Sizes and choices of the network, beside the vocabulary's size."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())

    embedding_size: int = Field(
        default=128, ge=1, le=8192, description="numbers that stand for a token, in encoder and decoder"
    )
    hidden_size: int = Field(default=256, ge=1, le=16384, description="of the states of encoder and decoder")
    latent_size: int = Field(default=32, ge=1, le=4096, description="dimensions of the latent variable z")
    pooling: Annotated[str, one_of(POOLINGS)] = Field(
        default="max",
        description="how the encoder's states become one feature vector",
        json_schema_extra=names_of(POOLINGS),
    )
    pooling_temperature: float = Field(default=1.0, gt=0, description="of logsumexp pooling only")
    encoder: Annotated[str, one_of(ENCODERS)] = Field(
        default="lstm", description="what reads the sequence", json_schema_extra=names_of(ENCODERS)
    )
    decoder: Annotated[str, one_of(DECODERS)] = Field(
        default="lstm", description="what writes it, token by token", json_schema_extra=names_of(DECODERS)
    )
    num_encoder_layers: int = Field(default=1, ge=1, le=24, description="layers of the encoder")
    num_decoder_layers: int = Field(default=1, ge=1, le=24, description="layers of the decoder")
    bidirectional: bool = Field(default=False, description="of recurrent encoders only")
    num_heads: int = Field(default=4, ge=1, le=64, description="of Transformers only; divides hidden_size")
    positions: Literal["sinusoidal", "learned"] = Field(default="sinusoidal", description="of Transformers only")
    inner_dropout: float = Field(default=0.0, ge=0, lt=1, description="between layers, and within a Transformer's")
    latent_to_input: bool = Field(
        default=True, description="z joins (a Transformer: is added to) the input at every position"
    )
    latent_to_state: bool = Field(
        default=True, description="z makes the decoder's first state (a Transformer's: a position of memory a layer)"
    )
    input_dropout: float = Field(
        default=0.5, ge=0, lt=1, description="share of the decoder's input numbers that training leaves out"
    )
    output_dropout: float = Field(default=0.5, ge=0, lt=1, description="the same of its states before the prediction")
    word_dropout: float = Field(
        default=0.0, ge=0, le=1, description="share of the decoder's input tokens that training hides"
    )
    init: Literal["default", "uniform"] = Field(
        default="default", description="PyTorch's initial weights, or the field's U(-0.01, 0.01)"
    )
    latent_to_output: bool = Field(default=False, description="skip-VAE: z also joins the state before each prediction")
    posterior: PosteriorName = Field(default="gaussian", description="family of q(z|x); none is a language model")
    batch_norm_scale: float = Field(default=0.6, gt=0, description="of batch-norm posteriors only")
    scaled_spread: float = Field(
        default=1.0, gt=0, description="standard deviation that scaled posteriors bring a mean up to"
    )
    committed_rate_nats: float = Field(default=2.0, gt=0, description="least KL of delta posteriors only")
    concentration: float = Field(default=40.0, gt=0, le=500, description="of von-mises-fisher posteriors only")

    refinement_steps: int = Field(default=0, ge=0, le=1000, description="semi-amortized: descent on each posterior")

    @model_validator(mode="after")
    def _layers_fit(self) -> "NetworkSettings":
        encoder, decoder = ENCODERS[self.encoder], DECODERS[self.decoder]
        if self.bidirectional and encoder.sees_all:
            raise ValueError(f"bidirectional is of recurrent encoders; encoder = {self.encoder} sees both ways anyway")
        if (encoder.has_heads or decoder.has_heads) and self.hidden_size % self.num_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} cannot be divided among num_heads {self.num_heads};"
                " give a hidden_size that is a multiple of it"
            )
        if self.init == "uniform" and not (encoder.takes_uniform and decoder.takes_uniform):
            kind = self.decoder if encoder.takes_uniform else self.encoder
            raise ValueError(f"init = uniform starts norms near 0, which {kind} has; give init = default")
        if POOLINGS[self.pooling].needs_sight and not (self.bidirectional or encoder.sees_all):
            raise ValueError(
                f"pooling = {self.pooling} takes a state that in a one-way {self.encoder} has read nothing but <s>,"
                " the same for every sequence; set bidirectional = true or another encoder"
            )
        return self

    @model_validator(mode="after")
    def _decoder_sees_latent(self) -> "NetworkSettings":
        if not (self.latent_to_input or self.latent_to_state or self.latent_to_output):
            raise ValueError(
                "latent_to_input, latent_to_state and latent_to_output are all false, so that the decoder would"
                " never see the latent variable; set one of them, or model.posterior = none for a language model"
            )
        if self.posterior == "von-mises-fisher" and self.latent_size < 2:
            raise ValueError(f"a sphere needs latent_size of at least 2, got {self.latent_size}")
        if self.refinement_steps and self.posterior != "gaussian":
            raise ValueError(
                f"refinement_steps would move a posterior of family {self.posterior} out of it;"
                " semi-amortized inference needs posterior = gaussian"
            )
        return self

    @property
    def has_latent(self) -> bool:
        """Whether there is a latent variable at all; without one the network is a language model."""
        return self.posterior != "none"

    @property
    def noise_size(self) -> int:
        """Standard normal numbers that one draw of the latent variable takes."""
        return self.latent_size + (1 if self.posterior == "von-mises-fisher" else 0)

    @property
    def decoder_passes(self) -> int:
        """How often a training step decodes its batch: refinement adds one a step and two on the way back."""
        return 1 + 3 * self.refinement_steps

    @property
    def states_size(self) -> int:
        """Size of the encoder's state at each token."""
        return self.hidden_size * (2 if self.bidirectional else 1)

    @property
    def features_size(self) -> int:
        """Size of the pooled feature vector."""
        return self.states_size * POOLINGS[self.pooling].width


FreeBitsName = Literal["none", "total", "per-dimension", "batch-mean"]


class ObjectiveSettings(AnnealingSettings):
    """The KL weight's schedule and free bits; the two combine freely.

    `free_bits_nats` is the KL of a sequence that is not penalised: of the sum over dimensions
    (`total`), or split evenly over the dimensions and applied to each sequence's KL in each
    (`per-dimension`, Li et al., arXiv 1909.00868), or of the sum's mean over the batch (`batch-mean`).
    """

    free_bits: FreeBitsName = Field(default="none", description="what of the KL is not penalised")
    free_bits_nats: float = Field(default=4.0, gt=0, description="how much of it")
    minimum_rate_nats: float | None = Field(default=None, gt=0, description="least mean KL, held by a multiplier")
    target_kl_nats: float | None = Field(
        default=None, gt=0, description="mean KL that a controller moves the weight for, up to the scheduled one"
    )
    proportional_gain: float = Field(default=0.01, ge=0, description="of that controller")
    integral_gain: float = Field(default=0.0001, gt=0, description="of that controller, a step")
