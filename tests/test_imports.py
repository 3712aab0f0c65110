"""The layers of the package: imports only go down, and packages of one layer stay apart."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "mlcls_jax"

# Lowest first.  A package imports from itself and from the layers below it.
LAYERS = (
    ("system",),
    ("models",),
    ("config",),
    ("data",),
    ("step", "evaluation"),
    ("run", "diagnosis"),
    ("options",),
    ("training", "explain"),
    ("benchmark", "report", "serve", "export", "embed", "tune", "commands"),
    ("api",),
)
# The modules at the root are the commands, `__main__`, which runs all of them by name, and `cli`,
# which is what they share.
COMMANDS = {
    "__main__",
    "cli",
    "data_worker",
    "demo",
    "evaluate",
    "lr_find",
    "pack",
    "predict",
    "to_csv",
    "train",
    "weights",
}
# `train` writes the report, and its --dry-run measures a few steps; a trial of `tune` trains.
BETWEEN_COMMANDS = {
    ("train", "report.live"),
    ("train", "benchmark.dry_run"),
    ("tune.__main__", "train"),
}
# Modules that import TensorFlow, when it is needed.
TENSORFLOW = {"data.readers.records", "export.tensorflow_files"} | {
    f"data.loaders.tf_{name}"
    for name in (
        "data",
        "files",
        "images",
        "order",
        "orientation",
        "pipeline",
        "plans",
        "random",
        "scans",
        "servers",
        "service",
    )
}

LAYER_OF = {package: number for number, layer in enumerate(LAYERS) for package in layer}
MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in PACKAGE.rglob("*.py")
    if path != PACKAGE / "__init__.py"
}


def package_of(module: str) -> str:
    """The top-level package of a module: "data" for "data.readers.coco"."""
    return "commands" if module in COMMANDS else module.split(".")[0]


def imported(path: Path) -> set[str]:
    """Full names of everything that a file imports, inside functions too."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} is a relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            names |= {a.value for a in node.args if isinstance(a, ast.Constant)}
    return names


def own_imports(path: Path) -> set[str]:
    """Modules of the package that a file imports, such as "data.splits"."""
    found = set()
    for name in imported(path):
        if name.split(".")[0] != "mlcls_jax" or name == "mlcls_jax.__version__":
            continue
        parts = name.split(".")[1:]
        prefixes = [".".join(parts[:n]) for n in range(len(parts), 0, -1)]
        module = next((prefix for prefix in prefixes if prefix in MODULES), None)
        assert module, f"{path}: {name} is in no module; import it from where it is defined"
        found.add(module)
    return found


def test_every_module_is_in_a_layer():
    assert {package_of(module) for module in MODULES} == set(LAYER_OF)
    assert len(LAYERS) == 10


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_go_down_only(module):
    own = package_of(module)
    wrong = {
        name
        for name in own_imports(MODULES[module])
        if package_of(name) != own
        and LAYER_OF[package_of(name)] >= LAYER_OF[own]
        and name != "cli"
        and (module, name) not in BETWEEN_COMMANDS
    }
    assert not wrong


def test_the_networks_need_only_the_system():
    for module, path in MODULES.items():
        if package_of(module) == "models":
            assert {package_of(name) for name in own_imports(path)} <= {"models", "system"}, module


def test_package_files_import_nothing():
    for path in PACKAGE.rglob("__init__.py"):
        # config is the face of the configuration; the package's own imports a name when it is used.
        if path.parent not in (PACKAGE, PACKAGE / "config"):
            assert not imported(path), path


def test_there_is_no_cycle():
    graph = {module: own_imports(path) - {module} for module, path in MODULES.items()}
    while graph:
        leaves = {module for module, targets in graph.items() if not targets & set(graph)}
        assert leaves, f"a cycle among {sorted(graph)}"
        graph = {module: targets for module, targets in graph.items() if module not in leaves}


@pytest.mark.parametrize("module", sorted(set(MODULES) - TENSORFLOW))
def test_no_other_framework_is_imported(module):
    roots = {name.split(".")[0] for name in imported(MODULES[module])}
    assert not roots & {"tensorflow", "torch", "keras", "tf_keras", "torchvision", "timm"}
