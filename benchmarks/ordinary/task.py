"""Networks and data of the Flower apps, in the manner of Flower's own PyTorch quickstart (examples/quickstart-pytorch).

The folder FASHION_MNIST holds FashionMNIST/raw as torchvision reads it, and `partition.json`, which a partitioner
wrote: mean and deviation of the training pixels, and for every client its model and its rows (the 60,000 training
images come first, then the 10,000 test images).
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import ConcatDataset, DataLoader, Subset
from torchvision.datasets import FashionMNIST
from torchvision.transforms import Compose, Normalize, ToTensor

_DATA: Any = None  # loaded once a process, as the quickstart does
_PARTITION: Any = None


def make_net(name: str) -> nn.Module:
    """The model of a kind of client: "linear" or "cnn"."""
    if name == "linear":
        return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(32 * 7 * 7, 64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip


def folder() -> Path:
    """Where the data lie."""
    return Path(os.environ["FASHION_MNIST"])


def partition() -> Any:
    """What the partitioner wrote."""
    global _PARTITION
    if _PARTITION is None:
        _PARTITION = json.loads((folder() / "partition.json").read_text())
    return _PARTITION


def load_data(partition_id: int, split: str, batch_size: int, *, shuffle: bool = False) -> DataLoader:
    """A client's "train", "calibration" or "test" rows."""
    global _DATA
    if _DATA is None:
        world = partition()
        transforms = Compose([ToTensor(), Normalize((world["mean"],), (world["std"],))])
        _DATA = ConcatDataset([FashionMNIST(folder(), train=part, transform=transforms) for part in (True, False)])
    rows = partition()["clients"][partition_id][split]
    return DataLoader(Subset(_DATA, rows), batch_size=batch_size, shuffle=shuffle)


def predict(net: nn.Module, loader: DataLoader) -> tuple[torch.Tensor, torch.Tensor]:
    """Probabilities (n, 10) and labels (n,)."""
    net.eval()
    probabilities, labels = [torch.zeros(0, 10)], [torch.zeros(0, dtype=torch.long)]
    with torch.no_grad():
        for images, targets in loader:
            probabilities.append(torch.softmax(net(images), dim=1))
            labels.append(targets)
    return torch.cat(probabilities), torch.cat(labels)


def train(net: nn.Module, loader: DataLoader, epochs: int, lr: float) -> None:
    """Train in place."""
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(net.parameters(), lr=lr)
    net.train()
    for _ in range(epochs):
        for images, targets in loader:
            optimizer.zero_grad()
            criterion(net(images), targets).backward()
            optimizer.step()
