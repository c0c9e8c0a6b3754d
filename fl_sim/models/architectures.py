"""Architectures by name, each adapted to the shape of the data: `build(name, shape, outputs)`.

A name that ends in `-imagenet` starts from the weights that torchvision has trained on ImageNet, which must be on this
machine (`missing_weights`); no run downloads them. Those networks were trained on images normalised by ImageNet's own
mean and deviation; here every input is standardised by the moments of the data's training rows, and it stays so: for
natural images the two are close; for others (scans, drawings) it keeps the inputs centred and of unit scale, as they
were in that training, which ImageNet's constants would not.

Torch is imported inside the builders, so that checking a scenario's names costs nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fl_sim.names import OWN, nearest, own_object

if TYPE_CHECKING:
    from torch import nn

Shape = tuple[int, ...]  # (channels, height, width) of an image, or (features,)


def linear(shape: Shape, outputs: int) -> nn.Module:
    """One affine map."""
    from torch import nn

    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), outputs))


def mlp(shape: Shape, outputs: int) -> nn.Module:
    """Two hidden layers of 64."""
    from torch import nn

    return nn.Sequential(
        nn.Flatten(), nn.Linear(math.prod(shape), 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, outputs)
    )


def mlp_64(shape: Shape, outputs: int) -> nn.Module:
    """One hidden layer of 64 (FedTSV's on MNIST)."""
    from torch import nn

    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), 64), nn.ReLU(), nn.Linear(64, outputs))


def cnn(shape: Shape, outputs: int) -> nn.Module:
    """Two 3x3 convolutions (16 and 32 channels), each with 2x2 pooling, then 64 hidden units; images from 4x4 up."""
    from torch import nn

    channels, height, width = shape
    return nn.Sequential(
        nn.Conv2d(channels, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(32 * (height // 4) * (width // 4), 64), nn.ReLU(), nn.Linear(64, outputs),
    )  # fmt: skip


def _tree(depth: int) -> Callable[[Shape, int], nn.Module]:
    def build(shape: Shape, outputs: int) -> nn.Module:
        from fl_sim.models.trees import Tree

        return Tree(depth, outputs)

    build.__doc__ = f"A decision tree of depth {depth}, fitted by scikit-learn; images as flat rows."
    return build


def boosting(shape: Shape, outputs: int) -> nn.Module:
    """Gradient boosting of trees of depth 3 by scikit-learn: a stage an epoch, shrunk by learning_rate."""
    from fl_sim.models.trees import Boosting

    return Boosting(outputs)


def _torchvision(name: str) -> Callable[[Shape, int], nn.Module]:
    def build(shape: Shape, outputs: int) -> nn.Module:
        from torchvision import models

        module: nn.Module = getattr(models, name)(weights=None, num_classes=outputs)
        return _for_small_images(module, shape)

    build.__doc__ = (
        f"torchvision's {name}, untrained; its first layer takes any number of channels and keeps small images large."
    )
    return build


def _imagenet(name: str) -> Callable[[Shape, int], nn.Module]:
    def build(shape: Shape, outputs: int) -> nn.Module:
        import torch
        from torchvision import models

        from fl_sim.models import pretrained

        weights = pretrained.read_weights(name)
        with torch.device("meta"):  # so that no weights are drawn that are replaced at once
            module: nn.Module = getattr(models, name)(weights=None)
        try:
            module.load_state_dict(weights, assign=True)
        except RuntimeError as error:
            raise pretrained.damaged(name, error) from error
        return _new_head(module, outputs)

    build.__doc__ = f"torchvision's {name} trained on ImageNet, with a new last layer; colour images from 64x64 up."
    return build


ARCHITECTURES: dict[str, Callable[[Shape, int], nn.Module]] = {
    "linear": linear,
    "mlp": mlp,
    "mlp-64": mlp_64,
    "cnn": cnn,
    "tree-1": _tree(1),
    "tree-2": _tree(2),
    "tree-4": _tree(4),
    "tree-8": _tree(8),
    "boosting": boosting,
    "resnet18": _torchvision("resnet18"),
    "resnet50": _torchvision("resnet50"),
    "mobilenet_v3_small": _torchvision("mobilenet_v3_small"),
    "shufflenet_v2_x0_5": _torchvision("shufflenet_v2_x0_5"),
    "efficientnet_b0": _torchvision("efficientnet_b0"),
    "convnext_tiny": _torchvision("convnext_tiny"),
    "resnet18-imagenet": _imagenet("resnet18"),
    "resnet50-imagenet": _imagenet("resnet50"),
    "mobilenet_v3_small-imagenet": _imagenet("mobilenet_v3_small"),
    "efficientnet_b0-imagenet": _imagenet("efficientnet_b0"),
    "convnext_tiny-imagenet": _imagenet("convnext_tiny"),
}
GIVEN = "given"  # no network: what the model says is what the data hold (predictions:FILE)
IMAGENET = "-imagenet"  # how the names end that start from trained weights
SMALLEST = 64  # pixels a side that those take
FIT_THEMSELVES = ("tree-1", "tree-2", "tree-4", "tree-8", "boosting")  # by scikit-learn, without gradients
FITTED = 1  # raise it when a change in fl_sim/models/trees.py changes what one of these says
_ON_FEATURES = ("linear", "mlp", "mlp-64", *FIT_THEMSELVES)  # what also takes plain feature vectors


def check_architecture(name: str, task: str | None = None) -> None:
    """Refuse a name that is no architecture, or one that cannot serve the task.

    Raises:
        ValueError: with the nearest valid name.
    """
    if OWN.match(name) or name == GIVEN:
        return
    if name not in ARCHITECTURES:
        raise ValueError(f"no architecture is called {name!r}{nearest(name, ARCHITECTURES)}")
    if task == "regression" and name not in _ON_FEATURES:
        raise ValueError(
            f"architecture {name!r} takes images; for regression on features choose one of: {', '.join(_ON_FEATURES)}"
        )


def check_shape(name: str, shape: Shape) -> None:
    """Refuse an architecture of ours that does not take inputs of `shape`.

    Raises:
        ValueError: images are needed, or colour images of at least SMALLEST pixels a side.
    """
    if name not in _ON_FEATURES and len(shape) != 3:
        raise ValueError(f"architecture {name!r} takes images, not rows of shape {shape}")
    if name.endswith(IMAGENET) and (shape[0] != 3 or min(shape[1:]) < SMALLEST):
        raise ValueError(
            f"architecture {name!r} takes images of 3 channels and at least {SMALLEST} x {SMALLEST} pixels, not of "
            f"shape {shape}; make them larger (data.image_size) or use {name.removesuffix(IMAGENET)!r}"
        )


def build(name: str, shape: Shape, outputs: int) -> nn.Module:
    """The architecture `name` for inputs of `shape` and `outputs` values a row, on torch's current default generator.

    Raises:
        ValueError: no such architecture, or one that does not take inputs of that shape.
        DataNotAtHandError: the trained weights that it starts from are not on this machine.
        FlSimError: the file of those weights is damaged.
    """
    if OWN.match(name):
        return own_object(name)(shape, outputs)
    check_architecture(name)
    if name == GIVEN:
        raise ValueError("architecture 'given' has no network: it is for learn = 'given'")
    check_shape(name, shape)
    return ARCHITECTURES[name](shape, outputs)


def missing_weights(name: str) -> tuple[str, str] | None:
    """The file that architecture `name` starts from and that is not on this machine, and the command that gets it.

    None if it is there, or if the architecture starts from no file.
    """
    from fl_sim.models import pretrained

    return pretrained.missing_weights(name.removesuffix(IMAGENET)) if _starts_trained(name) else None


def weights_digest(name: str) -> str | None:
    """The SHA-256 of the file of weights that architecture `name` starts from; None if it starts from no file.

    Raises:
        DataNotAtHandError: the file is not on this machine, with the command that gets it.
    """
    from fl_sim.models import pretrained

    return pretrained.weights_digest(name.removesuffix(IMAGENET)) if _starts_trained(name) else None


def fitted_by(name: str) -> dict[str, Any]:
    """What decides an architecture that fits itself besides its recipe, as JSON values; nothing of the others."""
    from fl_sim.data.source import versions

    return {"fitted": [FITTED, *versions("scikit-learn")]} if name in FIT_THEMSELVES else {}


def _starts_trained(name: str) -> bool:
    return name in ARCHITECTURES and name.endswith(IMAGENET)


def _for_small_images(module: nn.Module, shape: Shape) -> nn.Module:
    """Replace the first convolution: other channels, and stride 1 below 64 pixels, where ImageNet's stride loses too
    much."""
    from torch import nn

    name, first = next((n, m) for n, m in module.named_modules() if isinstance(m, nn.Conv2d))
    keep: dict[str, Any] = {"kernel_size": first.kernel_size, "stride": first.stride, "padding": first.padding}
    small = min(shape[1:]) < 64
    geometry = {"kernel_size": 3, "stride": 1, "padding": 1} if small else keep
    replacement = nn.Conv2d(shape[0], first.out_channels, bias=first.bias is not None, **geometry)
    parent, _, leaf = name.rpartition(".")
    setattr(module.get_submodule(parent), leaf, replacement)
    if small and hasattr(module, "maxpool"):
        module.maxpool = nn.Identity()
    return module


def _new_head(module: nn.Module, outputs: int) -> nn.Module:
    """Replace the last linear layer by a fresh one of `outputs`, drawn as torch draws any."""
    from torch import nn

    name, last = [(n, m) for n, m in module.named_modules() if isinstance(m, nn.Linear)][-1]
    module.set_submodule(name, nn.Linear(last.in_features, outputs))
    return module
