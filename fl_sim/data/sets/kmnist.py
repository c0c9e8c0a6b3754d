"""KMNIST."""

from fl_sim.data.vision import VisionSet, idx_files

images = VisionSet("kmnist", "KMNIST", idx_files("KMNIST"))
source = images.source("ten cursive Japanese characters, 28 x 28 grey")
