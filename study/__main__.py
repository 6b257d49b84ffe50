"""`python -m study`: the command line; without click, what of it needs PyTorch alone."""

from importlib.util import find_spec

if __name__ == "__main__":
    if find_spec("click") is None:
        from study.cli.bare import entry
    else:
        from study.cli.main import entry
    entry()
