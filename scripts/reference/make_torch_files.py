"""Writes training checkpoints of torch to tests/models/weights, which the tests read without torch.

    python scripts/reference/make_torch_files.py

Each has the state of an optimiser before the state dict of a small model; checkpoint_ema_*.pth have
two state dicts. Needs the extra `reference`, whose torch is imported where it is used.
"""

# Not in the environment of `make test`; the one of `make test-reference` checks its types.
# pyright: reportMissingImports=false

from pathlib import Path

FOLDER = Path(__file__).parents[2] / "tests/models/weights"


def write(folder: Path) -> None:
    """Writes four files, both kinds in both formats of torch.

    Args:
        folder: an existing folder.
    """
    import torch

    model = torch.nn.Linear(3, 2)
    with torch.no_grad():
        model.weight.copy_(torch.arange(6.0).reshape(2, 3))
        model.bias.copy_(torch.tensor([0.5, -0.5]))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0, momentum=0.9)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    checkpoint = {
        "optimizer": optimizer.state_dict(),
        "epoch": 3,
        "state_dict": model.state_dict(),
    }
    for name, is_zip in (("zip", True), ("stream", False)):
        options = {"_use_new_zipfile_serialization": is_zip}
        torch.save(checkpoint, folder / f"checkpoint_{name}.pth", **options)
        both = checkpoint | {"state_dict_ema": model.state_dict()}
        torch.save(both, folder / f"checkpoint_ema_{name}.pth", **options)


if __name__ == "__main__":
    write(FOLDER)
