"""Which sampled SMILES are molecules: validity, uniqueness and novelty, as the field counts them."""

from __future__ import annotations

from collections.abc import Container
from importlib.util import find_spec

import numpy as np

from data.corpus import Split
from data.tokens.codec import Codec
from study.errors import StudyError

MEND = "pip install 'pooled-vae-study[molecules]'"


def canonical(text: str) -> str | None:
    """Return RDKit's canonical SMILES of a text, None where it is no molecule."""
    from rdkit import Chem, rdBase

    # What is wrong with each text is not asked.
    rdBase.DisableLog("rdApp.*")
    molecule = Chem.MolFromSmiles(text) if text else None
    if molecule is None:
        return None
    found: str = Chem.MolToSmiles(molecule)
    return found


class KnownTexts:
    """The texts of a split, by their ids: millions are not decoded to look for some."""

    def __init__(self, codec: Codec, split: Split) -> None:
        self.codec = codec
        self._ids = {split.sequence(row).astype(np.int64).tobytes() for row in range(len(split))}

    def __contains__(self, text: object) -> bool:
        return self.codec.encode([str(text)])[0].tobytes() in self._ids


def molecule_metrics(samples: list[str], known: Container[str] | None) -> dict[str, float]:
    """Return shares: `valid` of the samples, `unique` of the valid ones, `novel` of the unique ones.

    As the MOSES benchmark defines them (Polykovskiy et al., arXiv 1811.12823); `known` are the training texts, as they
    are written there; without them nothing is said of novelty. Raises StudyError without RDKit.
    """
    if find_spec("rdkit") is None:
        raise StudyError(f"which samples are molecules is asked of RDKit, which is not installed: {MEND}")
    found = [canonical(text) for text in samples]
    valid = [(text, smiles) for text, smiles in zip(samples, found, strict=True) if smiles is not None]
    unique = {smiles: text for text, smiles in valid}
    shares = {
        "valid": len(valid) / max(1, len(samples)),
        "unique": len(unique) / max(1, len(valid)),
    }
    if known is not None:
        found_again = sum(smiles in known or text in known for smiles, text in unique.items())
        shares["novel"] = 1.0 - found_again / max(1, len(unique))
    return shares
