"""Short names, look-up of names, and the printed table."""

import pytest

from mlcls_jax.models.variants import VARIANTS
from mlcls_jax.models.weights.aliases import ALIASES, entries_of, format_table, is_name, resolve
from mlcls_jax.models.weights.catalog import CATALOG


def plain(variant):
    """Returns the files with a head that were trained on ImageNet-1k alone."""
    return [
        entry
        for entry in CATALOG.values()
        if entry.variant == variant
        and entry.trained_on == "ImageNet-1k"
        and entry.num_classes == 1000
    ]


@pytest.mark.parametrize("variant", VARIANTS)
def test_imagenet_is_the_best_plain_file(variant):
    timm = [entry for entry in plain(variant) if entry.name.startswith("timm:")]
    pinned = [entry for entry in plain(variant) if entry not in timm]
    candidates = timm
    if pinned:
        percent, px = pinned[0].top1
        better = [e for e in timm if e.top1[0] >= percent + 1 and abs(e.top1[1] - px) <= px / 10]
        candidates = better or pinned
    best = max(candidates, key=lambda entry: entry.top1[0])
    assert ALIASES["imagenet"][variant] == best.name


@pytest.mark.parametrize("alias, words", [("noisy-student", "JFT-300M"), ("advprop", "AdvProp")])
def test_the_other_short_names(alias, words):
    assert list(ALIASES[alias]) == [f"b{n}" for n in range(8)]
    for variant in ALIASES[alias]:
        entry = resolve(alias, variant)
        assert entry.variant == variant
        assert words in entry.trained_on


def test_every_file_resolves_with_or_without_its_variant():
    for name, entry in CATALOG.items():
        assert resolve(name) is resolve(name, entry.variant) is entry


@pytest.mark.parametrize(
    "name, variant, message",
    [
        ("imagenet", None, "'imagenet' names .* each variant; specify the variant"),
        ("imagenet", "b8", "unknown variant 'b8'; choose one of b0, b1"),
        ("noisy-student", "v2s", "only for b0, .*; for v2s, choose 'imagenet' .*v2_s.in21k"),
        ("keras:efficientnetb0", "b1", "holds the weights of b0, not of b1; choose other weights"),
        ("keras:efficientnetv2s", None, "similar names are keras:efficientnetv2-s, .*lists"),
        (
            "timm:resnet50.a1_in1k",
            None,
            r"no .* are named 'timm:resnet50.a1_in1k'; .*mlcls_jax\.weights lists",
        ),
        (
            "timm:tf_efficientnet_b6",
            None,
            r"several .*; choose one of timm:tf_efficientnet_b6\.aa_in1k, .*ns_jft",
        ),
    ],
)
def test_unusable_names_are_refused(name, variant, message):
    with pytest.raises(ValueError, match=message):
        resolve(name, variant)


def test_a_file_of_timm_at_a_revision():
    name = "timm:tf_efficientnet_b0.in1k"
    entry = resolve(f"{name}@1f2e", "b0")
    assert entry.name == f"{name}@1f2e"
    assert entry.filename == "tf_efficientnet_b0.in1k@1f2e.safetensors"
    assert entry.url == CATALOG[name].url.replace("/main/", "/1f2e/")
    for wrong in (f"{name}@", f"{name}@../x", "keras:efficientnetb0@v1", "timm:none.in1k@v1"):
        with pytest.raises(ValueError, match="no pretrained weights are named"):
            resolve(wrong)


def test_names_and_paths():
    for name in [*ALIASES, *CATALOG, "timm:unknown", "keras:", "pypi:x"]:
        assert is_name(name)
    for path in ["", "imagenet.pth", "./imagenet", "runs/advprop", "/data/timm/model.safetensors"]:
        assert not is_name(path)


def test_table():
    header, *lines = format_table(entries_of(VARIANTS)).splitlines()
    assert len(lines) == len(CATALOG)
    start = header.index("  name") + 2
    assert {line[start:].split()[0] for line in lines} == CATALOG.keys()
    aliases = [name for line in lines for name in line[:start].split()]
    assert sorted(aliases) == sorted(name for name, files in ALIASES.items() for _ in files)
    (b0,) = (line for line in lines if " timm:efficientnet_b0.ra4" in line)
    assert b0.startswith("imagenet ")
    for text in ("127.5 / 127.5", "symmetric", "1e-05", "0.900", "bicubic", "78.6 at 224"):
        assert f"  {text}  " in b0
    assert "  MD5 902e53a9f72be733fc0bcb005b3ebbac  https://" in "\n".join(lines)
