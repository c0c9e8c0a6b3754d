"""EMNIST in its balanced split."""

from fl_sim.data.vision import VisionSet

images = VisionSet(
    "emnist",
    "EMNIST",
    tuple(
        f"EMNIST/raw/emnist-balanced-{part}-{kind}-ubyte"
        for part in ("train", "test")
        for kind in ("images-idx3", "labels-idx1")
    ),
    num_train=112_800,
    num_test=18_800,
    num_classes=47,
    parts=({"train": True, "split": "balanced"}, {"train": False, "split": "balanced"}),
    columns_first=True,
)
source = images.source("handwritten letters and digits, 47 classes (the balanced split), 28 x 28 grey")
