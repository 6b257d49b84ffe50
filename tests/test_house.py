"""House rules: who imports whom, what is shipped, and that every command explains itself."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import click
import pytest

from study.cli.main import COMMANDS, main
from study.metrics import METRICS

ROOT = Path(__file__).parent.parent
MODULES = {
    path: ast.parse(path.read_text("utf-8"))
    for name in ("study", "model", "data")
    for path in (ROOT / name).rglob("*.py")
}


def imports(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def importers(package):
    return {path for path, tree in MODULES.items() if any(name.split(".")[0] == package for name in imports(tree))}


def names(paths):
    return {".".join(path.relative_to(ROOT).with_suffix("").parts) for path in paths}


LAYERS = (
    "config",
    "search",
    "record",
    "training",
    "trainable",
    "inference",
    "tracking",
    "analysis",
    "reporting",
    "planning",
    "execution",
    "cluster",
    "api",
    "cli",
)
"""The folders of `study` and its API, from the one that imports none of the others up."""
BELOW = ("errors", "console", "epoch", "metrics")
"""Modules beside the folders that every one of them may import."""
MOST_MODULES = 15


def layer(module):
    """Return which layer of `study` a dotted module is of, 0 for what lies beside the folders; None for others."""
    parts = module.split(".")
    if parts[0] != "study" or len(parts) == 1:
        return None
    if len(parts) > 1 and parts[1] in LAYERS:
        return LAYERS.index(parts[1]) + 1
    return 0 if len(parts) > 1 and parts[1] in BELOW else len(LAYERS) + 1


def imported_modules(tree):
    """Yield every module that a file imports, at its top, within functions or for types alone."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def upward_imports(modules):
    found = []
    for path, tree in modules.items():
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        own = layer(module)
        if own is None or module in ("study.__init__", "study.__main__"):
            continue
        found += [f"{module} imports {other}" for other in imported_modules(tree) if (layer(other) or 0) > own]
    return found


def test_no_folder_imports_from_one_above_it():
    assert upward_imports(MODULES) == []


@pytest.mark.parametrize(
    ("folder", "line"),
    [
        ("search", "from study.record.ledger import Ledger"),
        ("training", "from study import api"),
        ("config", "import study.search.space"),
        ("record", "if True:\n    from study.execution import trial"),
    ],
)
def test_an_import_from_above_would_be_seen(folder, line):
    assert upward_imports({ROOT / f"study/{folder}/new.py": ast.parse(line)})


def test_no_two_modules_import_each_other():
    edges = {}
    for path, tree in MODULES.items():
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        edges[module] = set(imported_modules(tree)) | set(imports(tree))
    known = set(edges)
    edges = {module: (others & known) - {module} for module, others in edges.items()}
    # A package's own name gives what it says it gives.
    for start in sorted(known - {"study", "study.tracking"}):
        seen, waiting = set(), list(edges[start])
        while waiting:
            module = waiting.pop()
            assert module != start, f"{start} imports itself, by way of {sorted(seen)}"
            if module not in seen and module not in ("study", "study.tracking"):
                seen.add(module)
                waiting += edges[module]


def test_a_folder_holds_no_more_modules_than_one_can_see():
    for folder in {path.parent for path in MODULES}:
        assert len(list(folder.glob("*.py"))) <= MOST_MODULES, folder


@pytest.mark.parametrize(
    ("package", "allowed"),
    [
        (
            "ray",
            {
                "study.execution.connection",
                "study.execution.failures",
                "study.execution.launch",
                "study.execution.local_ray",
                "study.execution.nodes",
                "study.execution.schedules",
                "study.execution.trial",
                "study.execution.tuning",
                "study.cluster.jobs",
            },
        ),
        (
            "mlflow",
            {f"study.tracking.{name}" for name in ("experiments", "tracker", "store", "registry", "text_model")},
        ),
        (
            "optuna",
            {
                "study.search.learned",
                "study.search.ranges",
                "study.search.samplers",
                "study.search.space",
                "study.record.database",
                "study.record.integrity",
                "study.record.ledger",
                "study.record.proposal",
                "study.record.retrying",
                "study.cluster.repair",
                "study.analysis.importance",
            },
        ),
        (
            "click",
            {
                *(
                    f"study.cli.{path.stem}"
                    for path in (ROOT / "study/cli").glob("*.py")
                    if path.stem not in ("__init__", "bare")
                ),
                "study.tracking.ui",
            },
        ),
    ],
)
def test_each_framework_is_spoken_to_in_few_places(package, allowed):
    assert names(importers(package)) == allowed


def test_model_and_data_know_neither_each_other_nor_study():
    for package, others in (("model", {"data", "study"}), ("data", {"model", "study"})):
        for other in others:
            assert not [path for path in importers(other) if path.parent.name == package]


@pytest.mark.parametrize(
    "module",
    [
        "model.config",
        "study.config.settings",
        "study.cli.main",
        "study.cli.study",
        "study.cli.report",
        "study.execution.launch",
        "study.reporting.tables",
    ],
)
def test_settings_help_and_looking_at_a_study_load_no_torch(module):
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_files_that_documents_name_are_there():
    pattern = re.compile(
        r"\b(?:study|model|data|tests|benchmarks|docs)/[\w./-]*\.(?:py|sh|toml|md|parquet|yaml|ipynb)\b"
    )
    for document in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]:
        for name in pattern.findall(document.read_text("utf-8")):
            assert (ROOT / name).exists(), f"{document.name} names {name}"


def test_the_glossary_has_every_metric_as_the_table_of_metrics_has_it():
    glossary = (ROOT / "docs/glossary.md").read_text("utf-8")
    for metric in METRICS.values():
        cells = (metric.heading, f"`{metric.name}`", metric.unit or "-", metric.direction or "-", metric.meaning)
        assert f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |" in glossary


def test_no_test_imports_another():
    for path in (ROOT / "tests").glob("*.py"):
        found = {name.split(".")[0] for name in imports(ast.parse(path.read_text("utf-8")))}
        assert not {name for name in found if name.startswith("test_")}, path


def test_no_function_is_longer_than_a_screen_and_no_file_than_a_sitting():
    for path, tree in MODULES.items():
        assert len(path.read_text("utf-8").splitlines()) <= 350, path
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < 60, f"{path}: {node.name}"


def every_command():
    context = click.Context(main)
    for name in COMMANDS:
        command = main.get_command(context, name)
        yield (name,), command
        if isinstance(command, click.Group):
            yield from (((name, inner), command.commands[inner]) for inner in command.commands)


@pytest.mark.parametrize(
    ("path", "command"), list(every_command()), ids=lambda value: "-".join(value) if isinstance(value, tuple) else ""
)
def test_every_command_has_a_summary_an_example_and_explained_options(path, command, call):
    code, out, _ = call(*path, "--help")
    assert code == 0
    assert f"study {path[0]}" in command.help
    assert command.help.split("\n")[0].endswith(".")
    assert all(option.help for option in command.params if isinstance(option, click.Option))
    assert "Options:" in out


def test_the_packages_that_are_imported_elsewhere_are_ours(tmp_path):
    code = "import study, model, data; print(study.__file__, model.__file__, data.__file__)"
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert [Path(name).parent.parent for name in result.stdout.split()] == [ROOT] * 3


def test_nothing_of_ours_is_ignored_by_git():
    files = [str(path.relative_to(ROOT)) for path in MODULES] + ["study/presets/quick.toml"]
    result = subprocess.run(
        ["git", "check-ignore", "--no-index", *files], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 1, result.stdout
    anchored = [line for line in (ROOT / ".gitignore").read_text().splitlines() if not line.startswith(("/", "__"))]
    assert anchored == []


def test_every_dependency_says_who_uses_it_and_is_pinned():
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    project = tomllib.loads(text)["project"]
    pinned = {line.split("==")[0].lower().replace("_", "-") for line in (ROOT / "constraints.txt").read_text().split()}
    wanted = [
        *project["dependencies"],
        *(name for extra in project["optional-dependencies"].values() for name in extra),
    ]
    for requirement in wanted:
        line = next(line for line in text.splitlines() if f'"{requirement}"' in line)
        assert "# " in line, requirement
        assert requirement.replace("[", ">").split(">")[0].split("=")[0] in pinned, requirement


def test_the_presets_are_shipped_in_the_wheel(tmp_path):
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert settings["packages"] == ["study", "model", "data"]
    assert (ROOT / "study/presets/quick.toml").is_file()


def test_readme_has_the_two_commands_and_names_every_module():
    readme = (ROOT / "README.md").read_text("utf-8")
    assert "make study" in readme
    assert "make test" in readme
    tree = readme.partition("```text\n")[2].partition("```")[0]
    told = {}
    for line in tree.splitlines():
        folder, _, rest = line.partition(":")
        if rest and not folder.endswith("/") and (ROOT / folder / "__init__.py").is_file():
            told[folder] = {name.strip() for name in rest.split(",")}
    folders = {path.parent for path in MODULES}
    assert told == {
        str(folder.relative_to(ROOT)): {path.stem for path in folder.glob("*.py") if path.stem != "__init__"}
        for folder in folders
    }


def test_the_command_line_offers_every_tokenizer_and_format():
    """Help does not load what reads text, and says its names itself."""
    from data.sources.readers import FORMATS
    from data.tokens.tokenizers import TOKENIZERS
    from study.cli import corpus

    assert list(TOKENIZERS) == list(corpus.TOKENIZERS)
    assert list(FORMATS) == list(corpus.FORMATS)


def test_model_and_data_mean_the_same_by_the_special_tokens():
    """Neither may import the other, so that each names them."""
    from data import vocabulary
    from model import config

    for name in ("PAD_ID", "BOS_ID", "EOS_ID", "UNK_ID"):
        assert getattr(vocabulary, name) == getattr(config, name)
