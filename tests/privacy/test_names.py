import ast
import subprocess
import sys
from pathlib import Path

import pytest

import privae.privacy


def test_every_public_name_is_what_its_module_calls_so():
    for name in privae.privacy.__all__:
        found = getattr(privae.privacy, name)
        assert found.__name__ == name
        assert found.__doc__


def test_the_names_are_sorted_and_all_are_listed():
    names = privae.privacy.__all__
    assert dir(privae.privacy) == sorted(names)
    assert len(set(names)) == len(names)
    assert {name for home in privae.privacy._HOMES.values() for name in home} == set(names)


def test_what_type_checkers_see_is_what_is_imported():
    tree = ast.parse(Path(privae.privacy.__file__).read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {node.module.split(".")[-1]: tuple(n.name for n in node.names) for node in block.body}
    assert seen == privae.privacy._HOMES


def test_another_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'privacy_engine'"):
        _ = privae.privacy.privacy_engine


def test_importing_the_package_does_not_wait_for_torch():
    code = "import sys, privae.privacy; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
