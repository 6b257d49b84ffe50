"""Whether every node of a Ray cluster can run a study's trials: asked before the first one starts.

Each node answers for itself: which versions it runs, whether it reads and writes the study's folder and the corpus, and
whether it finds the code of a user's own that trains.
A node that joins later is not asked; a trial that fails there says why.
"""

from __future__ import annotations

import hashlib
import os
import platform
import secrets
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from study.config.own_code import OwnCode
from study.errors import StudyError, StudyWarning
from study.search.definition import Definition

PACKAGES = ("ray", "torch", "numpy", "pyarrow", "safetensors")
BOOTSTRAP = Path("~/ray_bootstrap_config.yaml")
"""What `ray up` leaves on the head: the cluster can grow."""
PROBE_SECONDS = 60.0


def check_nodes(definition: Definition, folder: Path) -> None:
    """Raise StudyError, with what to mend, unless every node of the connected cluster can run the trials."""
    check_gpus(definition, alive_nodes())
    gpus = sum(node["Resources"].get("GPU", 0.0) for node in alive_nodes())
    if gpus and not definition.gpus_per_trial:
        idle = f"the cluster has {gpus:g} GPUs, and trials get none of them: --gpus-per-trial 0.25 packs four on one"
        warnings.warn(StudyWarning(idle), stacklevel=2)
    found = [line for _, lines in survey(folder, definition) for line in lines]
    if found:
        raise StudyError("the cluster cannot run this study:\n" + "\n".join(f"  {line}" for line in found))


def alive_nodes() -> list[dict[str, Any]]:
    """Return the nodes of the connected cluster, as Ray describes them."""
    import ray

    return [node for node in ray.nodes() if node["Alive"]]


def check_code(definition: Definition) -> None:
    """Raise StudyError unless a worker of this machine's own Ray finds the code that is to train."""
    for _, answer in ask_about_code(definition):
        if lack := answer.get("code", ""):
            raise StudyError(
                f"{lack}; start from where it can be imported, or where it is a function of a notebook's, give it:"
                " Study.run(train, resume=NAME)"
            )


def ask_about_code(definition: Definition) -> list[tuple[str, dict[str, str]]]:
    """Return what each node that can hold a trial says of the code that is to train.

    It is asked with a little of a GPU where trials have one: code that takes it as it is imported must find it.
    """
    able = [node for node in alive_nodes() if can_hold(definition, node)]
    return ask_nodes(able, lack_of_code, definition.code, gpus=min(0.01, definition.gpus_per_trial))


def can_hold(definition: Definition, node: dict[str, Any]) -> bool:
    """Say whether a node has the resources of a trial."""
    wanted = {"CPU": definition.cpus_per_trial, "GPU": definition.gpus_per_trial}
    return all(node["Resources"].get(kind, 0.0) >= number for kind, number in wanted.items())


def survey(folder: Path, definition: Definition | None = None) -> list[tuple[str, list[str]]]:
    """Return each node of the connected cluster, and what keeps it from working in a folder and on a study's trials."""
    token, corpus = secrets.token_hex(8), "" if definition is None else definition.corpus
    probe = folder.absolute() / f".probe-{token}"
    probe.write_text(token)
    try:
        here = describe_node(str(probe), token, corpus)
        answers = ask_nodes(alive_nodes(), describe_node, str(probe), token, corpus)
        if definition is not None and definition.code is not None:
            lacks = dict(ask_about_code(definition))
            answers = [(name, there | {"code": lacks.get(name, {}).get("code", "")}) for name, there in answers]
    finally:
        for path in probe.parent.glob(f".probe-{token}*"):
            path.unlink()
    return [(name, problems(name, there, here)) for name, there in answers]


def check_gpus(definition: Definition, nodes: list[dict[str, Any]]) -> None:
    """Raise StudyError if no node has the resources of a trial and no other can come."""
    wanted = {"CPU": definition.cpus_per_trial, "GPU": definition.gpus_per_trial}
    if any(can_hold(definition, node) for node in nodes):
        return
    if BOOTSTRAP.expanduser().is_file() and could_come(yaml.safe_load(BOOTSTRAP.expanduser().read_text()), wanted):
        return
    most = {kind: max((node["Resources"].get(kind, 0.0) for node in nodes), default=0.0) for kind in wanted}
    raise StudyError(
        f"a trial needs {wanted['CPU']:g} CPUs and {wanted['GPU']:g} GPUs on one node; the {len(nodes)} nodes of this"
        f" cluster have at most {most['CPU']:g} CPUs and {most['GPU']:g} GPUs, and none that has them can come; change"
        " --cpus-per-trial or --gpus-per-trial, or add a node"
    )


def could_come(config: dict[str, Any], wanted: dict[str, float]) -> bool:
    """Say whether a cluster, as `ray up` configured it, can grow by a node with these resources."""
    if config.get("provider", {}).get("type") == "local":
        return False
    kinds = config.get("available_node_types", {}).values()
    # What a cloud says of an instance type is not always written out.
    return any(
        not kind.get("resources") or all(kind["resources"].get(name, 0.0) >= number for name, number in wanted.items())
        for kind in kinds
        if kind.get("max_workers", 1) != 0
    )


def ask_nodes(
    nodes: list[dict[str, Any]], question: Callable[..., dict[str, str]], *arguments: object, gpus: float = 0.0
) -> list[tuple[str, dict[str, str]]]:
    """Return each node's name and what a function says there; of one that cannot be asked, an `error`."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    ask = ray.remote(question)
    asked = [
        ask.options(
            num_cpus=0,
            num_gpus=gpus,
            max_retries=0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False),
        ).remote(*arguments)
        for node in nodes
    ]
    answers = []
    for node, reference in zip(nodes, asked, strict=True):
        name = f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"
        try:
            answers.append((name, ray.get(reference, timeout=PROBE_SECONDS)))
        except Exception as error:  # Ray wraps whatever a node raised
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            answers.append((name, {"error": lines[-1] if lines else type(error).__name__}))
    return answers


def lack_of_code(code: OwnCode) -> dict[str, str]:
    """Return why this node cannot train with a user's own code, as `code`; an empty text if it can."""
    from study.trainable.loading import find

    try:
        find(code)
    except StudyError as error:
        return {"code": str(error)}
    return {"code": ""}


def describe_node(probe: str, token: str, corpus: str) -> dict[str, str]:
    """Return what this node runs, and whether the study's folder and the corpus can be used from here."""
    from data.corpus import Corpus
    from data.errors import CorpusError

    facts = {
        "Python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
        "source": source_digest(),
        "storage": "",
        "corpus": "",
        "code": "",
    }
    try:
        if Path(probe).read_text() != token:
            facts["storage"] = "it shows another file there"
        mark = Path(f"{probe}.{os.uname().nodename}.{os.getpid()}")
        mark.write_text(token)
        mark.unlink()
    except OSError as error:
        facts["storage"] = str(error)
    try:
        facts["fingerprint"] = Corpus.open(corpus).fingerprint if corpus else ""
    except (CorpusError, OSError) as error:
        facts["corpus"] = str(error)
    return facts


def problems(name: str, there: dict[str, str], here: dict[str, str]) -> list[str]:
    """Return what keeps a node from running trials, with the mend."""
    if "error" in there:
        return [
            f"{name}: did not answer ({there['error']}); install the project there as it is here:"
            " pip install --constraint constraints.txt --editable ."
        ]
    found = [
        f"{name}: has {what} {there[what]}, the driver has {here[what]}; install with the same constraints.txt"
        for what in ("Python", *PACKAGES)
        if there[what] != here[what]
    ]
    if there["source"] != here["source"]:
        found.append(f"{name}: has another version of this project; copy it there again (`ray up` does)")
    if there["storage"]:
        found.append(
            f"{name}: cannot use the study's folder ({there['storage']}); --storage must be a folder that every node"
            " shares, such as an NFS mount, and may write"
        )
    if there["corpus"]:
        found.append(
            f"{name}: cannot read the corpus ({there['corpus']}); prepare it into the shared storage:"
            " study corpus prepare ... --out SHARED/corpora/NAME"
        )
    if there["code"]:
        found.append(
            f"{name}: {there['code']}; put the code where every node finds it, such as the shared storage, or let"
            " `study submit --working-dir .` take it along"
        )
    if not there["corpus"] and there["fingerprint"] != here["fingerprint"]:
        found.append(f"{name}: holds another corpus than the driver in that place; copy the driver's there")
    return found


def source_digest() -> str:
    """Return a digest of this project's source files as they are installed here."""
    root, digest = Path(__file__).parent.parent.parent, hashlib.sha256()
    for package in ("data", "model", "study"):
        for path in sorted((root / package).rglob("*.py")):
            digest.update(str(path.relative_to(root)).encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
