"""CIFAR-10."""

from fl_sim.data.vision import VisionSet

_BATCHES = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta")

images = VisionSet("cifar10", "CIFAR10", tuple(f"cifar-10-batches-py/{name}" for name in _BATCHES), num_train=50_000)
source = images.source("ten kinds of objects, 32 x 32 colour")
