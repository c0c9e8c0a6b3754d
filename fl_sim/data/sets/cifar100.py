"""CIFAR-100."""

from fl_sim.data.vision import VisionSet

images = VisionSet(
    "cifar100",
    "CIFAR100",
    tuple(f"cifar-100-python/{name}" for name in ("train", "test", "meta")),
    num_train=50_000,
    num_classes=100,
)
source = images.source("a hundred kinds of objects, 32 x 32 colour")
