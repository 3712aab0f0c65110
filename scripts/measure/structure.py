"""Prints how the package is laid out: what CONTRIBUTING.md promises, in numbers.

    python scripts/measure/structure.py [--list]

Modules at the root of the package, the longest chain of imports, and how many functions take the
whole Config instead of the part that they need.  --list names them.
"""

import argparse
import ast
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "mlcls_jax"
FILES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in PACKAGE.rglob("*.py")
    if path != PACKAGE / "__init__.py"
}


def root_modules() -> list[str]:
    """Returns the names of the modules that lie at the root, `__init__` included."""
    return sorted(path.stem for path in PACKAGE.glob("*.py"))


def imports_of(module: str) -> set[str]:
    """Returns the modules of the package that one imports, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(FILES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mlcls_jax"):
            for alias in node.names:
                name = f"{node.module}.{alias.name}".removeprefix("mlcls_jax.")
                parent = name.rpartition(".")[0]
                found |= {candidate for candidate in (name, parent) if candidate in FILES}
    return found - {module}


@cache
def longest_chain(module: str) -> tuple[str, ...]:
    """Returns the longest chain of imports that begins at a module, the module first."""
    return (module, *max(map(longest_chain, sorted(imports_of(module))), key=len, default=()))


def whole_config_functions() -> list[str]:
    """Returns the functions and methods with an argument that is annotated as a Config."""
    found = []
    for module, path in FILES.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                annotations = [ast.unparse(a.annotation) for a in arguments if a.annotation]
                if "Config" in annotations:
                    found.append(f"{module}.{node.name}")
    return sorted(found)


def main() -> None:
    parser = argparse.ArgumentParser(description="Prints how the package is laid out, in numbers.")
    parser.add_argument("--list", action="store_true", help="name what is counted")
    options = parser.parse_args()
    chain = max(map(longest_chain, sorted(FILES)), key=len)
    for title, names in (
        ("modules at the root", root_modules()),
        ("longest chain of imports", chain),
        ("functions that take the whole Config", whole_config_functions()),
    ):
        print(f"{title}: {len(names)}")
        if options.list:
            print("\n".join(f"  {name}" for name in names))


if __name__ == "__main__":
    main()
