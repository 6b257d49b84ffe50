"""The notebook runs, the API pages are made without network, and every command in the documents can be typed."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest

from study.cli.main import main

ROOT = Path(__file__).parent.parent
TOUR = ROOT / "docs/tour.ipynb"


def test_the_notebook_was_run_from_top_to_bottom():
    import nbformat

    cells = [cell for cell in nbformat.read(TOUR, 4).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    assert sum("image/svg+xml" in output.get("data", {}) for output in outputs) >= 4


def commands_in(text):
    """Return the words of every `study` command in the shell blocks of a document."""
    found = []
    for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            while "study" in words:
                words = words[words.index("study") + 1 :]
                ends = (
                    place for place, word in enumerate(words) if word in ("&&", "|", ">", "done") or word.endswith(";")
                )
                found.append(words[: next(ends, len(words))])
    return [words for words in found if words]


def check_typed(words):
    """Raise click's UsageError unless these are the words of a command with options that it has."""
    group, context, rest = main, main.make_context("study", ["list"]), list(words)
    while isinstance(group, click.Group):
        name, group, rest = group.resolve_command(context, rest)
        if isinstance(group, click.Group):
            continue
        group.make_context(name, rest, parent=context)


@pytest.mark.parametrize(
    "document", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))], ids=lambda path: path.name
)
def test_every_command_in_the_documents_can_be_typed(document):
    for words in commands_in(document.read_text("utf-8")):
        try:
            check_typed(words)
        except click.exceptions.Exit:
            assert words[-1] in ("--help", "--version")
        except click.UsageError as error:
            # Whether a file is there is not asked.
            if "No such file" not in error.format_message():
                pytest.fail(f"study {' '.join(words)}: {error.format_message()}")


@pytest.mark.parametrize("words", [["run", "--trails", "3"], ["reprot", "quick"], ["corpus", "prepair"]])
def test_a_command_that_cannot_be_typed_would_be_seen(words):
    with pytest.raises(click.UsageError):
        check_typed(words)


@pytest.mark.slow
def test_the_notebook_runs_on_another_study(finished_study):
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(TOUR, 4)
    place = 'Study("quick", "../runs")'
    assert sum(place in cell.source for cell in notebook.cells) == 1
    for cell in notebook.cells:
        cell.source = cell.source.replace(place, f"Study('done', {str(finished_study)!r})")
    resources = {"metadata": {"path": str(ROOT / "docs")}}
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources=resources).execute()
    texts = [
        output["data"]["text/plain"]
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if "data" in output
    ]
    assert texts[0].startswith("'Best: trial")
    assert "collapsed" in texts[-1]


@pytest.mark.slow
def test_every_module_has_an_api_page_that_needs_no_network(tmp_path):
    command = [sys.executable, "-m", "pdoc", "--output-directory", str(tmp_path), "data", "model", "study"]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    for package in ("data", "model", "study"):
        for path in (path for path in (ROOT / package).rglob("*.py") if path.stem != "__main__"):
            name = path.relative_to(ROOT).with_suffix("")
            page = tmp_path / (name.parent if name.name == "__init__" else name).with_suffix(".html")
            text = page.read_text("utf-8")
            assert not re.findall(r"""<(?:script|link|img)[^>]*(?:src|href)=["']https?:""", text), page
    assert "[N, H]" in (tmp_path / "study/inference/diagnosis.html").read_text("utf-8")
