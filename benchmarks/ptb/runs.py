"""Penn Treebank at the field's sizes, trained to convergence: a queue of runs that goes on wherever it was interrupted.

    study corpus prepare ptb --from PTB_FOLDER --out corpora/ptb
    OMP_NUM_THREADS=1 nice -n 19 python benchmarks/ptb/runs.py run corpora/ptb --out runs/ptb
    python benchmarks/ptb/runs.py status corpora/ptb --out runs/ptb
    python benchmarks/ptb/runs.py collect corpora/ptb --out runs/ptb     # numbers of finished runs, beside this file

The recipe is that of jxhe/vae-lagging-encoder: embedding and hidden size 256, latent size 32, SGD at 1.0, weights from
U(-0.01, 0.01), KL weight from 0.1 to 1 over ten epochs, the learning rate halved from epoch 15 on after two epochs
without a better validation ELBO, until five halvings or 100 epochs. On one core of a present CPU an epoch takes about
190 s, a run some three hours, and a test evaluation with 500 importance samples half an hour (a language model's none).

Each run is `study train`, which goes on from its last checkpoint, then `study evaluate` of the best epoch on the whole
test split, once; a second time with `--widen` where Pareto k-hat trusts less than nine in ten sequences.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import polars as pl

HERE = Path(__file__).parent
STUDY = str(Path(sys.executable).with_name("study"))
RECIPE = {
    "training.epochs": 100,
    "objective.annealing": "linear",
    "objective.annealing_fraction": 0.1,
    "evaluation.num_samples": 4,
    "evaluation.num_sequences": "unset",
    "evaluation.collapse_epochs": 1_000_000,
    "training.checkpoint_minutes": 4,
    "training.device": "auto",
}
LAST, MAX, MEAN = ({"model.pooling": name} for name in ("last", "max", "mean"))
LANGUAGE_MODEL = {"model.posterior": "none"}
BATCH_NORM = {"model.posterior": "batch-norm", "model.batch_norm_scale": 0.6}
AUTOENCODER = {
    "training.pretraining_epochs": 5,
    "objective.free_bits": "per-dimension",
    "objective.free_bits_nats": 8.0,
    "objective.initial_kl_weight": 0.0,
}
QUEUE: dict[str, dict] = {
    "language-model-0": LANGUAGE_MODEL | {"seed": 0},
    "last-0": LAST | {"seed": 0},
    "max-0": MAX | {"seed": 0},
    "last-1": LAST | {"seed": 1},
    "max-1": MAX | {"seed": 1},
    "last-2": LAST | {"seed": 2},
    "max-2": MAX | {"seed": 2},
    "mean-0": MEAN | {"seed": 0},
    "mean-1": MEAN | {"seed": 1},
    "mean-2": MEAN | {"seed": 2},
    "language-model-1": LANGUAGE_MODEL | {"seed": 1},
    "bn-vae-last-0": LAST | BATCH_NORM | {"seed": 0},
    "bn-vae-max-0": MAX | BATCH_NORM | {"seed": 0},
    "autoencoder-last-0": LAST | AUTOENCODER | {"seed": 0},
}
UNTRUSTED = 0.1
TEST = "test.json"


def settings(name: str) -> list[str]:
    """Return a run's settings as options of `study train`."""
    given = RECIPE | QUEUE[name]
    return [part for key, value in given.items() for part in ("--set", f"{key}={value}")]


def run(corpus: Path, out: Path, names: list[str]) -> None:
    """Train and evaluate what is not done yet, in order."""
    for name in names:
        folder = out / name
        if (folder / TEST).exists():
            continue
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "epoch-0.json").exists() and "last" in name + str(QUEUE[name]):
            write(folder / "epoch-0.json", untrained(corpus, name))
        with (folder / "train.log").open("a") as log:
            command = [STUDY, "train", str(corpus), "--preset", "ptb", *settings(name), "--out", str(folder)]
            subprocess.run(command, stdout=log, stderr=log, check=True)
        found = evaluate(corpus, folder, widen=False)
        results = {"posterior": found}
        if found["untrusted"] > UNTRUSTED:
            results["widened"] = evaluate(corpus, folder, widen=True)
        write(folder / TEST, results)
        collect(out, [name])


def untrained(corpus: Path, name: str) -> dict:
    """Measure the network of a run before its first step on the validation split: how alike its features are then."""
    import torch

    from data.corpus import Corpus
    from model.network.vae import SequenceVAE
    from study.config.settings import merge, nest, parse_assignment, read_preset, validate
    from study.training.evaluation import score

    preset = read_preset("ptb")
    preset.pop("study"), preset.pop("search", None)
    chosen = dict(parse_assignment(text) for text in settings(name)[1::2])
    valid = validate(nest(merge([preset, chosen])))
    opened = Corpus.open(corpus)
    torch.manual_seed(valid.seed)
    network = SequenceVAE(valid.model, opened.vocabulary_size)
    return score(network, opened.split("valid"), num_samples=1, batch_size=64).metrics()


def evaluate(corpus: Path, folder: Path, *, widen: bool) -> dict:
    """Return what `study evaluate` measures on the whole test split."""
    command = [STUDY, "evaluate", str(folder), "--corpus", str(corpus), "--samples", "500", "--json"]
    output = subprocess.run(
        [*command, "--widen" if widen else "--no-widen"], stdout=subprocess.PIPE, check=True, text=True
    ).stdout
    return json.loads(output)


def write(path: Path, content: dict) -> None:
    """Write a JSON file that is whole or not there."""
    aside = path.with_suffix(".writing")
    aside.write_text(json.dumps(content), "utf-8")
    aside.replace(path)


def history(folder: Path) -> list[dict]:
    """Return a run's epochs from its newest checkpoint."""
    from study.training.checkpoints import load_checkpoint

    found = load_checkpoint(folder / "checkpoints")
    return found[0].history if found else []


def status(out: Path, names: list[str]) -> None:
    """Print how far each run is."""
    for name in names:
        rows = history(out / name)
        state = "done" if (out / name / TEST).exists() else f"epoch {rows[-1]['epoch']}" if rows else "waiting"
        hours = rows[-1]["seconds"] / 3600 if rows else 0.0
        best = min((row["valid/elbo"] for row in rows), default=float("nan"))
        print(f"{name:20} {state:10} {hours:5.1f} h   best validation elbo {best:.3f}")


def collect(out: Path, names: list[str]) -> None:
    """Write the epochs and test numbers of finished runs as parquet beside this file."""
    for name in names:
        folder = out / name
        if not (folder / TEST).exists():
            continue
        rows = history(folder)
        start = folder / "epoch-0.json"
        if start.exists():
            measured = json.loads(start.read_text("utf-8"))
            rows = [{"epoch": 0} | {f"valid/{key}": value for key, value in measured.items()}, *rows]
        pl.from_dicts(rows, infer_schema_length=None).write_parquet(HERE / f"{name}.epochs.parquet")
        tests = json.loads((folder / TEST).read_text("utf-8"))
        kept = [
            {"run": name, "proposal": proposal} | {k: v for k, v in found.items() if isinstance(v, int | float)}
            for proposal, found in tests.items()
        ]
        pl.from_dicts(kept, infer_schema_length=None).write_parquet(HERE / f"{name}.test.parquet")
        print(f"wrote {name}")


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["run", "status", "collect"])
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="*", default=list(QUEUE), choices=list(QUEUE), metavar="NAME")
    given = parser.parse_args()
    match given.what:
        case "run":
            run(given.corpus, given.out, given.only)
        case "status":
            status(given.out, given.only)
        case _:
            collect(given.out, given.only)


if __name__ == "__main__":
    main()
