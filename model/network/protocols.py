"""What an encoder's and a decoder's layers must offer, and how they are made of settings.

To add one: write its class anywhere, and its entry in `model.registry`; nothing else names a kind of network.
"""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, ClassVar

from torch import Tensor, nn

from model.config import NetworkSettings
from model.shapes import Float, Int

State = tuple[Tensor, ...]
"""What a decoder's layers carry from one token to the next."""


class SequenceEncoder(nn.Module):
    """Layers over a whole sequence of embedded tokens; made of settings and the longest sequence that it will meet."""

    renamed: ClassVar[dict[str, str]] = {}
    """What older versions called its weights in an encoder, by prefix, and what they are called now."""

    def __init__(self, settings: NetworkSettings, longest: int) -> None:
        super().__init__()

    def forward(
        self, embedded: Float[Tensor, "batch time embedding"], lengths: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch time states"]:
        """Return the top layer's state at each token, of `NetworkSettings.states_size` units.

        What stands at padding has no meaning, and must not reach any other state. `lengths` may be on the CPU.
        """
        raise NotImplementedError


class SequenceDecoder(nn.Module):
    """Layers that read embedded tokens from left to right, knowing z; made as encoders are."""

    renamed: ClassVar[dict[str, str]] = {}
    """What older versions called its weights in a decoder, by prefix, and what they are called now."""

    def __init__(self, settings: NetworkSettings, longest: int) -> None:
        super().__init__()

    def forward(
        self,
        embedded: Float[Tensor, "batch steps embedding"],
        latent: Float[Tensor, "batch latent"],
        state: State | None = None,
    ) -> tuple[Float[Tensor, "batch steps hidden"], State]:
        """Return the top layer's state after each token, from a state or from the beginning, and the last state.

        No state depends on a later token. Reading a sequence in parts gives what reading it at once does.
        """
        raise NotImplementedError

    def reorder(self, state: State, rows: Int[Tensor, " kept"]) -> State:
        """Return the state of some sequences, as beam search keeps, drops and doubles them."""
        raise NotImplementedError


def rename_weights(module: nn.Module, renamed: Mapping[str, str]) -> None:
    """Have a module load weights under their older names too, by prefix."""

    def rename(_: nn.Module, weights: dict[str, Tensor], prefix: str, *rest: object) -> None:
        for old, new in renamed.items():
            for name in [each for each in weights if each.startswith(prefix + old)]:
                weights[prefix + new + name.removeprefix(prefix + old)] = weights.pop(name)

    module.register_load_state_dict_pre_hook(rename)  # type: ignore[no-untyped-call]


def make(factory: str, settings: NetworkSettings, longest: int) -> Any:
    """Return the layers that a registry's entry names, `package.module:Class`."""
    module, _, name = factory.partition(":")
    made: Callable[[NetworkSettings, int], nn.Module] = getattr(import_module(module), name)
    return made(settings, longest)
