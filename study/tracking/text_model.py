"""A trained model as MLflow serves it: logged as this code and a folder of weights, so that nothing is unpickled."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import mlflow.pyfunc
from mlflow.models import set_model

if TYPE_CHECKING:
    import pandas as pd

MODES = ("encode", "reconstruct", "sample")


class TextModel(mlflow.pyfunc.PythonModel):  # type: ignore[misc,name-defined]
    """Texts in; latent values, reconstructions or samples from the prior out, by the parameter `mode`."""

    def load_context(self, context: Any) -> None:
        """Open the weights."""
        from study.inference.trained_model import TrainedModel

        self.model = TrainedModel.open(context.artifacts["model"])

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Return one row for each `text`: `z0`, `z1`, ... if encoding, else `text`; raise ValueError for another mode.

        `sample` draws as many texts as there are rows, whatever they hold.
        """
        import pandas as pd

        from study.inference.trained_model import Decoding

        given = params or {}
        mode = given.get("mode", "encode")
        if model_input["text"].isna().any():
            raise ValueError("a text is missing (None); give every row one")
        texts = [str(text) for text in model_input["text"]]
        if mode == "encode":
            means = self.model.encode(texts)
            return pd.DataFrame(means, columns=[f"z{number}" for number in range(means.shape[1])])
        # 0: as long as texts of the model usually are.
        max_tokens = int(given.get("max_tokens", 0)) or None
        if mode == "reconstruct":
            return pd.DataFrame({"text": self.model.reconstruct(texts, Decoding("greedy", max_tokens=max_tokens))})
        if mode == "sample":
            decoding = Decoding("sample", temperature=float(given.get("temperature", 1.0)), max_tokens=max_tokens)
            return pd.DataFrame({"text": self.model.sample(len(texts), decoding, int(given.get("seed", 0)))})
        raise ValueError(f"mode {mode!r}: expected one of {', '.join(MODES)}")


set_model(TextModel())
