"""The layout of the package stays within the limits that were set for it."""

from structure import FILES, longest_chain, root_modules, whole_config_functions


def test_few_modules_lie_at_the_root():
    # Nine commands that are one module each, __init__, __main__, and cli, which they share.
    assert "train" in root_modules() and len(root_modules()) <= 12


def test_no_chain_of_imports_is_long():
    chain = max(map(longest_chain, FILES), key=len)
    assert 5 < len(chain) <= 18, chain


def test_few_functions_take_the_whole_config():
    functions = whole_config_functions()
    assert "train.train" in functions and len(functions) <= 23, functions
