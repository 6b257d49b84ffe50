"""House rules: who imports whom, what is shipped, and that every command explains itself."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import click
import pytest

from study.cli import COMMANDS, main

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


@pytest.mark.parametrize(
    ("package", "allowed"),
    [
        (
            "ray",
            {
                f"study.{name}"
                for name in ("trial", "tuning", "launch", "failures", "nodes", "submission", "local_ray", "schedules")
            },
        ),
        (
            "mlflow",
            {f"study.tracking.{name}" for name in ("tracker", "store", "registry", "text_model")},
        ),
        (
            "optuna",
            {
                f"study.{name}"
                for name in (
                    "ledger",
                    "database",
                    "integrity",
                    "proposal",
                    "repair",
                    "patience",
                    "samplers",
                    "space",
                    "importance",
                )
            },
        ),
        (
            "click",
            {
                "study.cli",
                "study.cli_study",
                "study.cli_model",
                "study.cli_evaluate",
                "study.cli_corpus",
                "study.cli_compare",
                "study.cli_confirm",
                "study.cli_look",
                "study.cli_cluster",
                "study.cli_types",
                "study.completion",
                "study.serving",
                "study.reporting",
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
        "study.settings",
        "study.cli",
        "study.cli_study",
        "study.reporting",
        "study.launch",
        "study.report",
    ],
)
def test_settings_help_and_looking_at_a_study_load_no_torch(module):
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_module_names_are_unique_so_that_a_traceback_line_says_where_one_is():
    stems = [path.stem for path in MODULES if path.stem not in ("__init__", "errors")]
    assert len(stems) == len(set(stems))


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
    for path in MODULES:
        if path.stem not in ("__init__", "__main__", "errors"):
            assert path.stem in readme, path
