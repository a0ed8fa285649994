"""Every parameter of a public function is in its docstring, one a line, where the site finds it.

The site reads Google style with sphinx.ext.napoleon. Here a few lines do it, because Sphinx is not
needed for anything else that `make test` does.
"""

import dataclasses
import importlib
import inspect
import re

import pytest

from tools.make_site import public_modules


def listed(docstring: str) -> list[str]:
    """The parameters of the section Args: its least indented lines that begin `name:`."""
    section = re.search(r"(?m)^Args:\n((?:[ \t]+.*\n?|\n)+)", inspect.cleandoc(docstring) + "\n")
    if not section:
        return []
    lines = inspect.cleandoc("\n" + section[1]).splitlines()
    found = [re.match(r"\*{0,2}(\w+)(?: \([^)]*\))?: ?\S", line) for line in lines]
    return [match[1] for match in found if match]


def public(module) -> dict[str, tuple[inspect.Signature, str]]:
    """Signature and docstring of each public function and class that a module defines."""
    found = {}
    for name, value in vars(module).items():
        if name.startswith("_") or getattr(value, "__module__", "") != module.__name__:
            continue
        if inspect.isfunction(value):
            found[name] = inspect.signature(value), inspect.getdoc(value) or ""
            continue
        if not inspect.isclass(value) or "__init__" not in vars(value):
            continue
        if not dataclasses.is_dataclass(value) and not issubclass(value, Exception):
            texts = (value.__doc__, value.__init__.__doc__)
            found[name] = inspect.signature(value), "\n\n".join(filter(None, texts))
    return found


@pytest.mark.parametrize("name", public_modules())
def test_every_parameter_is_documented(name):
    wrong = {}
    for function, (signature, docstring) in public(importlib.import_module(name)).items():
        parameters = [p for p in signature.parameters if not p.startswith("_")]
        said = listed(docstring)
        if said != parameters and (said or len(parameters) > 1):
            wrong[function] = {
                "missing": [p for p in parameters if p not in said],
                "unknown": [p for p in said if p not in parameters],
            }
    assert not wrong
