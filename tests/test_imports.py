"""One way through the package: every module imports only from lower layers."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "mlcls_jax"

# Lowest first.  Modules of one line do not import each other.
LAYERS = [
    ["background", "checksums", "data.memory", "early", "files"],
    ["host", "lock", "meta", "peers", "spent"],
    ["terminal", "data.shards", "models.variants", "models.padding"],
    ["events", "stopping"],
    ["models.lineages"],
    ["models.sources"],
    ["models.names"],
    ["config"],
    ["suggestions", "phase_checks"],
    ["config_checks"],
    ["devices"],
    ["data.csv_cells", "data.tfds_features"],
    ["data.delimited"],
    ["data.labels", "data.batch"],
    ["data.objects"],
    ["data.augment", "data.decoding", "data.order", "data.stratified"],
    [
        "data.faults",
        "data.images",
        "data.packed",
        "data.coco",
        "data.voc",
        "data.tfds_records",
        "data.unlabelled",
    ],
    ["data.source", "data.sources"],
    ["data.splits"],
    ["data.pipeline", "data.store"],
    ["data.cache"],
    ["data.cache_build"],
    ["models.windows", "models.normalization", "models.layouts"],
    ["models.convolution"],
    ["models.depthwise", "models.gated"],
    ["models.blocks"],
    ["models.decoder"],
    ["models.efficientnet"],
    ["models.pickle_check"],
    ["models.torch_file", "models.safetensors_file", "models.keras_file"],
    ["models.hub", "models.weight_files", "models.translate"],
    ["models.origins"],
    ["models.pretrained", "models.saving"],
    ["health", "losses", "patience", "range_test", "schedules"],
    ["optimizer"],
    ["averages", "phases"],
    ["metrics", "thresholds", "calibration", "bootstrap"],
    ["decisions"],
    ["train_step"],
    ["feature_step", "mixing"],
    ["programs", "compiled"],
    ["contact_sheet", "explain"],
    ["serving"],
    ["checkpoint_files"],
    ["checkpoint"],
    ["agreement", "workdir", "ahead", "first_step"],
    ["overlays", "scoring", "tta"],
    ["judgement", "web.batching"],
    ["web.service"],
    ["web.guard"],
    ["web.app"],
    ["features"],
    ["logs"],
    ["label_noise", "diagnosis.finding"],
    ["diagnosis.curves", "diagnosis.of_labels"],
    ["diagnosis.diagnose"],
    ["report.classes", "report.kept", "report.pictures"],
    ["report.charts", "report.gather", "report.maps"],
    ["report.write"],
    ["report.refresh"],
    ["session"],
    ["work", "handover", "finite"],
    ["candidates"],
    ["epoch_end"],
    ["loop"],
    ["initial"],
    ["startup"],
    ["cli"],
    ["benchmarks.timing", "benchmarks.verdict", "benchmarks.pictures"],
    ["benchmarks.figures", "benchmarks.hardware"],
    ["benchmarks.programs"],
    ["benchmarks.loops", "benchmarks.report"],
    ["benchmarks.measure", "benchmarks.sweep"],
    ["dry_run"],
    ["train", "evaluate", "predict", "export", "benchmark", "lr_find", "report.__main__"],
    ["serve"],
]
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}
FILES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
    for path in PACKAGE.rglob("*.py")
    if path.name != "__init__.py"
}


def imported(path: Path) -> set[str]:
    """Full names of all that a file imports, also inside functions."""
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
    """Modules of the package that a file imports, such as "data.labels"."""
    found = set()
    for name in imported(path):
        if name.split(".")[0] != "mlcls_jax" or name == "mlcls_jax.__version__":
            continue
        parts = name.split(".")[1:]
        prefixes = [".".join(parts[:n]) for n in range(len(parts), 0, -1)]
        module = next((prefix for prefix in prefixes if prefix in FILES), None)
        assert module, f"{path}: {name} is in no module; import it from where it is defined"
        found.add(module)
    return found


def test_every_module_has_one_layer():
    assert set(RANK) == set(FILES)
    assert sum(map(len, LAYERS)) == len(RANK)


@pytest.mark.parametrize("module", sorted(FILES))
def test_imports_go_down_only(module):
    upward = {name for name in own_imports(FILES[module]) if RANK[name] >= RANK[module]}
    assert not upward


def test_the_networks_know_nothing_but_devices_and_files():
    for module in FILES:
        if module.startswith("models."):
            others = {n for n in own_imports(FILES[module]) if not n.startswith("models.")}
            assert others <= {"devices", "files"}, module


def test_the_package_files_import_nothing():
    for path in PACKAGE.rglob("__init__.py"):
        assert not imported(path), path


def test_there_is_no_cycle():
    graph = {module: own_imports(path) for module, path in FILES.items()}
    while graph:
        leaves = {module for module, targets in graph.items() if not targets & set(graph)}
        assert leaves, f"a cycle among {sorted(graph)}"
        graph = {module: targets for module, targets in graph.items() if module not in leaves}


@pytest.mark.parametrize("module", sorted(FILES))
def test_no_other_framework_is_imported(module):
    roots = {name.split(".")[0] for name in imported(FILES[module])}
    assert not roots & {"tensorflow", "torch", "keras", "tf_keras", "torchvision", "timm"}
