"""Weights that torchvision has trained on ImageNet, where the user has them: found, checked, and got when asked.

They are torchvision's `IMAGENET1K_V1` of each architecture, and lie where torch itself keeps them, in the folder
`checkpoints` of its hub (`torch.hub.get_dir()`, moved by TORCH_HOME). Only `get_weights` ever downloads. A file is read
with `weights_only`: nothing in it is run.
"""

from __future__ import annotations

import hashlib
import textwrap
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from fl_sim.errors import DataNotAtHandError, FlSimError
from fl_sim.names import nearest

if TYPE_CHECKING:
    import torch

SITE = "https://download.pytorch.org/models/"
FILES = {  # their names end with the first eight digits of their SHA-256
    "resnet18": "resnet18-f37072fd.pth",
    "resnet50": "resnet50-0676ba61.pth",
    "mobilenet_v3_small": "mobilenet_v3_small-047dcff4.pth",
    "efficientnet_b0": "efficientnet_b0_rwightman-7f5810bc.pth",
    "convnext_tiny": "convnext_tiny-983f1562.pth",
}


def weights_file(name: str) -> Path:
    """Where the weights of `name`, a key of FILES, lie or would lie; FlSimError for another name."""
    import torch

    if name not in FILES:
        raise FlSimError(f"no ImageNet weights are known for {name!r}{nearest(name, FILES)}")
    return Path(torch.hub.get_dir()) / "checkpoints" / FILES[name]


def missing_weights(name: str) -> tuple[str, str] | None:
    """The file that is not there and the command that gets it; None if it is there."""
    file = weights_file(name)
    return None if file.is_file() else (str(file), f"fl-sim data get weights:{name}")


def get_weights(name: str) -> str:
    """Bring the weights of `name`, a key of FILES, to this machine; returns a line that says what happened.

    Raises:
        FlSimError: no such weights, or a download that failed or came with another digest than its name tells.
    """
    import torch

    file = weights_file(name)
    if file.is_file():
        return f"the ImageNet weights of {name} are at hand ({file})"
    tells = file.stem.rpartition("-")[2]
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(SITE + file.name, str(file), hash_prefix=tells, progress=False)
    except (OSError, RuntimeError) as error:  # URLError is an OSError
        raise FlSimError(
            f"{SITE}{file.name} could not be downloaded to {file.parent}: {error}; check the network (a proxy is set "
            "by HTTPS_PROXY) and the folder, then try again"
        ) from error
    return f"the ImageNet weights of {name} are now in {file}"


def read_weights(name: str) -> dict[str, torch.Tensor]:
    """The state dict of `name`, a key of FILES, on the CPU; nothing is ever downloaded.

    Raises:
        DataNotAtHandError: it is not on this machine, with the command that gets it.
        FlSimError: its file cannot be read.
    """
    import torch

    file = _at_hand(name)
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # what a damaged file makes torch raise is of many kinds
        raise damaged(name, error) from error


def damaged(name: str, error: Exception) -> FlSimError:
    """What to say of a file of weights that cannot be used."""
    reason = textwrap.shorten(str(error) or type(error).__name__, 150, placeholder=" …")
    return FlSimError(
        f"{weights_file(name)} does not hold the weights of {name} ({reason}); delete it and get it again: "
        f"fl-sim data get weights:{name}"
    )


def weights_digest(name: str) -> str:
    """The SHA-256 of the file of `name`, a key of FILES, to be part of the key of what comes of it.

    Raises:
        DataNotAtHandError: it is not on this machine, with the command that gets it.
    """
    file = _at_hand(name)
    stat = file.stat()
    return _digest(file, stat.st_size, stat.st_mtime_ns)


def _at_hand(name: str) -> Path:
    missing = missing_weights(name)
    if missing is not None:
        raise DataNotAtHandError(
            f"the ImageNet weights of {name} are not on this machine (looked for {missing[0]}); get them with "
            f"{missing[1]}"
        )
    return weights_file(name)


@cache  # once a process and file: every model's key asks for it
def _digest(file: Path, _size: int, _changed: int) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
