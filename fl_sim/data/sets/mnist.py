"""MNIST."""

from fl_sim.data.vision import VisionSet, idx_files

images = VisionSet("mnist", "MNIST", idx_files("MNIST"))
source = images.source("handwritten digits, 28 x 28 grey")
