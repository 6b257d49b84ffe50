"""The poolings, encoders and decoders there are: each one entry, from which all else takes what it knows of them.

To add a pooling: write its function in `model.network.pooling`, and its entry here. To add an encoder or a decoder:
write its class by `model.network.protocols`, in any module, and its entry here. Imports no torch.
"""

from dataclasses import dataclass
from typing import Literal

Extra = Literal["scores", "temperature", "both_ways"]


@dataclass(frozen=True)
class Pooling:
    """One way to reduce an encoder's states over time to features."""

    function: str
    """Its name in `model.network.pooling`: takes states `[batch, time, hidden]`, lengths `[batch]` and its `extras`."""
    colour: str
    """In every chart, as `#rrggbb`; Okabe and Ito's colours can be told apart by people of any colour vision."""
    mark: str
    """The shape of its points, one of Vega's, for print in grey."""
    width: int = 1
    """Size of the features as a multiple of the states'."""
    uses_all_states: bool = True
    """Whether it is what the method calls a pooled encoder; the others take one state or two."""
    needs_sight: bool = False
    """Whether it means something only where every state has seen the whole sequence."""
    takes_maxima: bool = False
    """Whether features are largest values over time, of which one can say where they lie."""
    extras: tuple[Extra, ...] = ()
    """What it is given beside: a learned layer's `scores`, the `temperature` that is set, whether states are of
    `both_ways`."""


POOLINGS: dict[str, Pooling] = {
    "last": Pooling("final_step", "#000000", "triangle-down", uses_all_states=False, extras=("both_ways",)),
    "first": Pooling("first_step", "#882255", "triangle-right", uses_all_states=False, needs_sight=True),
    "first+last": Pooling("first_and_last", "#999999", "triangle-left", width=2, uses_all_states=False),
    "mean": Pooling("mean", "#0072B2", "circle"),
    "max": Pooling("maximum", "#D55E00", "square", takes_maxima=True),
    "max+mean": Pooling("max_and_mean", "#CC79A7", "diamond", width=2, takes_maxima=True),
    "logsumexp": Pooling("logsumexp", "#009E73", "triangle-up", extras=("temperature",)),
    "attention": Pooling("attention", "#E69F00", "cross", extras=("scores",)),
}
"""By the name that `model.pooling` takes, in the order of tables and legends."""

POOLING_NAMES: tuple[str, ...] = tuple(POOLINGS)
POOLINGS_OF_ALL: tuple[str, ...] = tuple(name for name, pooling in POOLINGS.items() if not pooling.needs_sight)
"""Those that every encoder takes."""


def poolings_with(extra: Extra) -> frozenset[str]:
    """Return the names of the poolings that are given something beside the states."""
    return frozenset(name for name, pooling in POOLINGS.items() if extra in pooling.extras)


@dataclass(frozen=True)
class Layers:
    """One kind of layers of an encoder or a decoder."""

    factory: str
    """Where its class is, `package.module:Class`: see `model.network.protocols`."""
    sees_all: bool = False
    """Of an encoder: whether every state has seen the whole sequence without `bidirectional`."""
    has_heads: bool = False
    """Whether it has `num_heads` and `positions`."""
    takes_uniform: bool = True
    """Whether weights that all start near 0 can be trained."""


ENCODERS: dict[str, Layers] = {
    "lstm": Layers("model.network.recurrent:LSTMEncoder"),
    "gru": Layers("model.network.recurrent:GRUEncoder"),
    "transformer": Layers(
        "model.network.transformer:TransformerEncoder", sees_all=True, has_heads=True, takes_uniform=False
    ),
}
"""By the name that `model.encoder` takes."""

DECODERS: dict[str, Layers] = {
    "lstm": Layers("model.network.recurrent:LSTMDecoder"),
    "gru": Layers("model.network.recurrent:GRUDecoder"),
    "transformer": Layers("model.network.transformer:TransformerDecoder", has_heads=True, takes_uniform=False),
}
"""By the name that `model.decoder` takes."""
