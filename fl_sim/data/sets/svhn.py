"""SVHN, its cropped digits."""

from fl_sim.data.vision import VisionSet

images = VisionSet(
    "svhn",
    "SVHN",
    ("train_32x32.mat", "test_32x32.mat"),
    num_train=73_257,
    num_test=26_032,
    parts=({"split": "train"}, {"split": "test"}),
)
source = images.source("house numbers in street photographs, 32 x 32 colour")
