"""What decides how a corpus is prepared."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field, ValidationError, model_validator

from data.errors import CorpusError
from data.files import first_problem
from data.sources.source import Source
from data.tokens.cleaning import CleaningSettings


class PrepareSettings(CleaningSettings):
    """Everything that decides what a prepared corpus holds, beside its input."""

    deduplicate: bool = True
    split_by_group: bool = False
    valid_fraction: float = Field(default=0.05, gt=0, lt=1)
    test_fraction: float = Field(default=0.05, gt=0, lt=1)
    vocabulary_size: int | None = Field(default=None, ge=1)
    min_count: int = Field(default=1, ge=1)

    @model_validator(mode="after")
    def _fractions_leave_training(self) -> PrepareSettings:
        if self.valid_fraction + self.test_fraction >= 1:
            raise ValueError("valid_fraction and test_fraction must leave a part for training")
        return self

    @classmethod
    def resolve(cls, source: Source, given: Mapping[str, object]) -> PrepareSettings:
        """Return what the user gave over what is usual for the source."""
        try:
            return cls.model_validate({**source.defaults, **given})
        except ValidationError as error:
            raise CorpusError(first_problem(error)) from None
