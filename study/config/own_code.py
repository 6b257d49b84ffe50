"""Which code of the user's own trains the trials of a study."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class OwnCode(BaseModel):
    """A function or a command, and where it is found."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    function: str = ""
    """`package.module:function`; empty where a command trains."""
    command: str = ""
    """With `{NAME}` of settings; empty where a function trains."""
    folder: str
    """Where the function's module is looked for first, and commands are run."""

    @property
    def name(self) -> str:
        """What it is, in words of the user's."""
        return self.function or self.command

    @property
    def is_in_a_module(self) -> bool:
        """Whether the function can be imported: one of a notebook, or within another function, cannot."""
        return not self.function.startswith("__main__:") and "<locals>" not in self.function
