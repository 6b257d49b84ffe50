"""The wheel, built and installed into an environment of its own, from another folder."""

import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder of an environment's programs; what we depend on comes from the one that runs the tests."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    build = [*pip, "wheel", str(ROOT), "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "env"], check=True)
    (packages,) = (folder / "env/lib").glob("python*/site-packages")
    install = [*pip, "--python", str(folder / "env/bin/python"), "install", "--no-deps", str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    # A line of a .pth is a place to look in; the editable install's own .pth there is not read.
    (packages / "dependencies.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    return folder / "env/bin"


def run(program, *arguments, cwd):
    done = subprocess.run([program, *arguments], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_commands_presets_and_templates_are_there(installed, tmp_path):
    where = "import study, model, data; print(study.__file__, model.__file__, data.__file__)"
    assert str(ROOT) not in run(installed / "python", "-c", where, cwd=tmp_path)
    assert "Search the settings" in run(installed / "study", "--help", cwd=tmp_path)
    assert "Search the settings" in run(installed / "python", "-m", "study", "--help", cwd=tmp_path)
    presets = run(installed / "study", "settings", "--presets", cwd=tmp_path)
    assert all(path.stem in presets for path in (ROOT / "study/presets").glob("*.toml"))
    template = "from study.reporting.document import environment; print(environment().list_templates())"
    listed = run(installed / "python", "-c", template, cwd=tmp_path)
    assert all(path.name in listed for path in (ROOT / "study/templates").glob("*.j2"))


def test_one_model_is_trained_by_what_the_wheel_holds(installed, corpus, tiny_toml, tmp_path):
    arguments = ("train", str(corpus.folder), "--config", str(tiny_toml), "--out", str(tmp_path / "run"))
    assert len(run(installed / "study", *arguments, cwd=tmp_path).splitlines()) == 3
