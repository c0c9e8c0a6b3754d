"""Datasets by name: what they hold, what is said of them before loading, and what is refused."""

from __future__ import annotations

import gzip
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from fl_sim.data import DATASETS, Dataset, describe, friedman, get, load, named, vision
from fl_sim.errors import DataNotAtHandError, FlSimError, ScenarioError
from fl_sim.randomness import stream

DOWNLOADED = ["mnist", "fashion-mnist", "kmnist", "emnist", "cifar10", "cifar100", "svhn"]


@pytest.fixture
def empty(tmp_path, monkeypatch) -> Path:
    """A data root with nothing in it, and no Debian package either."""
    monkeypatch.setenv("FL_SIM_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(vision, "DEBIAN_FASHION_MNIST", tmp_path / "debian")
    return tmp_path


def idx(array: np.ndarray) -> bytes:
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    return header + array.astype(np.uint8).tobytes()


def write_mnist_like(folder: Path, names: tuple[str, ...], ending: str = "") -> list[np.ndarray]:
    """Three training and two test images of 4 x 5 pixels as the publishers' four files."""
    rng = stream(0, "fake")
    shapes = [(3, 4, 5), (3,), (2, 4, 5), (2,)]
    arrays = [rng.integers(0, 10, shape) for shape in shapes]
    for name, array in zip(names, arrays, strict=True):
        path = folder / f"{name}{ending}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(idx(array)) if ending else idx(array))
    return arrays


def read(name: str, count: int = 10, image_size: int | None = None, seed: int = 0) -> Dataset:
    return load(name, count=count, image_size=image_size, seed=seed)


def test_digits_and_diabetes_are_real_and_travel_along():
    digits, diabetes = read("digits"), read("diabetes")
    assert digits.inputs.shape == (1797, 1, 8, 8)
    assert sorted(set(digits.inputs.ravel().tolist())) == [round(v * 255 / 16) for v in range(17)]
    assert digits.classes == tuple("0123456789")
    assert digits.task == "classification"
    assert diabetes.inputs.shape == (442, 10)
    assert (diabetes.targets.min(), diabetes.targets.max()) == (25, 346)
    np.testing.assert_allclose(diabetes.inputs.std(axis=0), 1, atol=1e-5)
    assert diabetes.task == "regression"


@pytest.mark.parametrize("name", ["digits", "diabetes", "glyphs", "friedman"])
def test_what_is_said_before_loading_is_true(name):
    source, dataset = describe(name), read(name, count=70)
    assert source.at_hand()
    assert source.task == dataset.task
    assert len(dataset.targets) == (source.capacity or 70)
    assert source.num_official_test == dataset.num_official_test == 0


def test_glyphs_are_made_at_the_size_asked_for():
    assert read("glyphs").inputs.shape == (10, 1, 28, 28)
    assert read("glyphs", image_size=16).inputs.shape == (10, 1, 16, 16)


def test_friedman_has_the_mean_and_the_noise_of_its_formula():
    dataset = read("friedman", count=40_000)
    x = dataset.inputs.astype(np.float64)
    by_hand = 10 * np.sin(np.pi * 0.5 * 0.5) + 20 * 0.25**2 + 10 * 0.5 + 5 * 0.5
    at = np.array([[0.5, 0.5, 0.75, 0.5, 0.5, 1.0, 0, 0, 0, 0]])
    np.testing.assert_allclose(friedman.mean(at), [by_hand])
    assert friedman.deviation(at).tolist() == [1.25]
    noise = (dataset.targets - friedman.mean(x)) / friedman.deviation(x)
    assert abs(noise.mean()) < 4 / 200
    for part in (noise[x[:, 5] < 0.1], noise[x[:, 5] > 0.9]):
        assert abs(part.std() - 1) < 4 / (2 * len(part)) ** 0.5
    assert np.array_equal(read("friedman", count=50).targets, dataset.targets[:50])
    assert not np.array_equal(read("friedman", count=50, seed=1).targets, dataset.targets[:50])


@pytest.mark.parametrize("name", DOWNLOADED)
def test_data_not_at_hand_is_refused_with_the_command_that_gets_it(name, empty):
    assert not DATASETS[name].at_hand()
    with pytest.raises(DataNotAtHandError, match=f"fl-sim data get {name}"):
        read(name)
    assert not (empty / "data").exists()  # looking made nothing and fetched nothing


def test_fashion_mnist_also_names_debians_package(empty):
    with pytest.raises(DataNotAtHandError, match="apt-get install dataset-fashion-mnist"):
        read("fashion-mnist")


def test_fashion_mnist_is_found_where_debian_puts_it(empty):
    arrays = write_mnist_like(empty / "debian", vision.IDX_NAMES, ".gz")
    dataset = read("fashion-mnist")
    assert np.array_equal(dataset.inputs[:, 0], np.concatenate([arrays[0], arrays[2]]))
    assert dataset.targets.tolist() == [*arrays[1], *arrays[3]]
    assert dataset.num_official_test == 2
    assert dataset.classes is not None
    assert dataset.classes[0] == "T-shirt/top"
    assert get("fashion-mnist").startswith("fashion-mnist is at hand")


@pytest.mark.parametrize(
    "content", [b"", b"no gzip", gzip.compress(b"\0\0\x08"), gzip.compress(b"\0\0\x0d\x01\0\0\0\0")]
)
def test_a_damaged_idx_file_is_named(content, tmp_path):
    path = tmp_path / "images.gz"
    path.write_bytes(content)
    with pytest.raises(FlSimError, match=r"images\.gz cannot be read"):
        vision.read_idx(path)


def test_torchvisions_files_are_read_from_the_data_root(empty):
    arrays = write_mnist_like(empty / "data" / "MNIST" / "raw", vision.IDX_NAMES)
    dataset = read("mnist")
    assert np.array_equal(dataset.inputs[3:, 0], arrays[2])
    assert dataset.targets.dtype == np.int64
    assert dataset.num_official_test == 2


def test_emnist_is_turned_the_right_way(empty):
    arrays = write_mnist_like(empty / "data", vision.VISION["emnist"].files)
    dataset = read("emnist")
    assert np.array_equal(dataset.inputs[:3, 0], arrays[0].swapaxes(1, 2))
    assert dataset.classes is not None
    assert len(dataset.classes) == 47


def test_a_damaged_download_says_what_to_delete(empty):
    for file in vision.VISION["cifar10"].files:
        path = empty / "data" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"half")
    with pytest.raises(DataNotAtHandError, match=r"damaged.*delete.*cifar-10-batches-py"):
        read("cifar10")


def test_colour_images_come_channels_first(monkeypatch):
    pixels = stream(0, "fake").integers(0, 256, (2, 32, 32, 3)).astype(np.uint8)
    cifar = types.SimpleNamespace(data=pixels, targets=[3, 1])
    svhn = types.SimpleNamespace(data=pixels.transpose(0, 3, 1, 2), labels=np.array([3, 1]))
    for part in (cifar, svhn):
        assert np.array_equal(vision._images(part), pixels.transpose(0, 3, 1, 2))
        assert vision._labels(part).tolist() == [3, 1]
    assert vision._classes(svhn) == tuple("0123456789")


def test_only_get_downloads_and_a_refusing_network_is_told(empty, monkeypatch):
    asked = []

    def build(spec, part, download):
        asked.append((spec.class_name, download))
        raise RuntimeError("no route to host")

    monkeypatch.setattr(vision, "_build", build)
    with pytest.raises(DataNotAtHandError):
        read("kmnist")
    assert asked == []
    with pytest.raises(FlSimError, match=r"KMNIST could not be downloaded to .*no route to host"):
        get("kmnist")
    assert asked == [("KMNIST", True)]


def test_unknown_names_are_refused_with_the_nearest():
    with pytest.raises(ScenarioError, match=r"no dataset 'fashion_mnist'; nearest: fashion-mnist"):
        describe("fashion_mnist")
    with pytest.raises(ScenarioError, match="nothing beside its colon"):
        describe("image-folder:")


def test_the_pool_is_not_data_to_learn_from():
    assert describe("glyphs-pool").task == "unlabelled"
    with pytest.raises(ScenarioError, match="glyphs-pool has no labels"):
        read("glyphs-pool")


def test_an_image_folder_is_read_class_by_class(tmp_path):
    from PIL import Image

    for row, (label, size) in enumerate([("cat", (10, 6)), ("cat", (4, 4)), ("dog", (9, 9))]):
        (tmp_path / label).mkdir(exist_ok=True)
        Image.new("RGB", size, (50 * row, 0, 255)).save(tmp_path / label / f"{row}.png")
    name = f"image-folder:{tmp_path}"
    assert describe(name).capacity == 3
    dataset = read(name, image_size=5)
    assert dataset.inputs.shape == (3, 3, 5, 5)
    assert dataset.inputs[:, :, 2, 2].tolist() == [[0, 0, 255], [50, 0, 255], [100, 0, 255]]
    assert dataset.targets.tolist() == [0, 0, 1]
    assert dataset.classes == ("cat", "dog")
    before = describe(name).fingerprint()
    (tmp_path / "dog" / "2.png").unlink()
    assert describe(name).fingerprint() != before
    with pytest.raises(ScenarioError, match=r"data\.image_size: not set"):
        read(name)


def test_missing_and_empty_image_folders_are_refused(tmp_path):
    with pytest.raises(DataNotAtHandError, match="nowhere"):
        read(f"image-folder:{tmp_path / 'nowhere'}", image_size=8)
    with pytest.raises(FlSimError, match="class folder"):
        read(f"image-folder:{tmp_path}", image_size=8)


def test_a_users_own_dataset_is_called_by_its_name(tmp_path, monkeypatch):
    (tmp_path / "my_data.py").write_text(
        "import numpy as np\n"
        "from fl_sim.data import Dataset\n"
        "def make(*, count, image_size, seed):\n"
        "    return Dataset(np.zeros((count, 2), np.float32), np.full(count, seed, np.float32), None)\n"
        "def wrong(**_):\n"
        "    return 7\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert read("my_data:make", count=4, seed=9).targets.tolist() == [9] * 4
    assert describe("my_data:make").task is None
    assert describe("my_data:make").fingerprint() != describe("my_data:wrong").fingerprint()
    with pytest.raises(ScenarioError, match="returned int"):
        read("my_data:wrong")
    for name in ("my_data:nothing", "no_such_module:make"):
        with pytest.raises(ScenarioError, match="cannot be imported"):
            read(name)


FLAT = {
    "task": "multi-class",
    "label": {"0": "a", "1": "b"},
    "description": "Small. Long.",
    "url": "zenodo",
    "python_class": "B",
}


@pytest.fixture
def medmnist(monkeypatch) -> types.SimpleNamespace:
    """A stand-in for the optional package."""
    info = {"bloodmnist": {**FLAT, "n_samples": {"train": 2, "val": 1, "test": 2}}}
    info["chestmnist"] = {**info["bloodmnist"], "task": "multi-label, binary-class"}
    info["organmnist3d"] = info["bloodmnist"]
    package = types.SimpleNamespace(INFO=info)
    monkeypatch.setattr(named, "_medmnist_package", lambda: package)
    return package


def test_medmnist_without_its_package_says_how_to_install_it(empty, monkeypatch):
    monkeypatch.setattr(named, "_medmnist_package", lambda: None)
    with pytest.raises(DataNotAtHandError, match="pip install medmnist"):
        read("medmnist:bloodmnist")
    with pytest.raises(FlSimError, match="pip install medmnist"):
        get("medmnist:bloodmnist")


def test_medmnist_reads_train_then_validation_then_test(empty, medmnist):
    source = describe("medmnist:bloodmnist")
    assert (source.capacity, source.num_official_test, source.at_hand()) == (5, 2, False)
    file = empty / "data" / "medmnist" / "bloodmnist.npz"
    file.parent.mkdir(parents=True)
    arrays = {}
    for value, (part, rows) in enumerate(medmnist.INFO["bloodmnist"]["n_samples"].items()):
        arrays[f"{part}_images"] = np.full((rows, 28, 28, 3), value, np.uint8)
        arrays[f"{part}_labels"] = np.full((rows, 1), value % 2, np.uint8)
    np.savez(file, **arrays)
    dataset = read("medmnist:bloodmnist")
    assert dataset.inputs.shape == (5, 3, 28, 28)
    assert dataset.inputs[:, 0, 0, 0].tolist() == [0, 0, 1, 2, 2]
    assert dataset.targets.tolist() == [0, 0, 1, 0, 0]
    assert (dataset.classes, dataset.num_official_test) == (("a", "b"), 2)


@pytest.mark.parametrize("flag", ["bloodmnis", "chestmnist", "organmnist3d"])
def test_medmnist_sets_that_do_not_exist_or_do_not_fit_are_refused(flag, medmnist):
    with pytest.raises(ScenarioError, match="nearest: medmnist:bloodmnist"):
        describe(f"medmnist:{flag}")


@pytest.mark.parametrize(
    ("inputs", "targets", "classes", "official", "words"),
    [
        (np.zeros((2, 8, 8), np.uint8), np.zeros(2, np.int64), ("a",), 0, "inputs are uint8"),
        (np.zeros((2, 3)), np.zeros(2, np.float32), None, 0, "inputs are float64"),
        (np.zeros((2, 3), np.float32), np.zeros(2, np.int64), None, 0, "must be float32"),
        (np.zeros((2, 3), np.float32), np.array([0, 1]), ("a",), 0, "labels run from 0 to 1"),
        (np.zeros((2, 3), np.float32), np.zeros(3, np.float32), None, 0, "2 inputs but 3 targets"),
        (np.zeros((2, 3), np.float32), np.zeros(2, np.float32), None, 3, "num_official_test = 3 of 2"),
    ],
)
def test_a_dataset_that_is_none_is_refused_when_built(inputs, targets, classes, official, words):
    with pytest.raises(FlSimError, match=words):
        Dataset(inputs, targets, classes, official)


def test_importing_the_package_loads_nothing_heavy():
    heavy = ["torch", "torchvision", "sklearn", "matplotlib", "scipy"]
    code = f"import sys, fl_sim.data.datasets; print([m for m in {heavy} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


@pytest.mark.slow
def test_the_real_fashion_mnist():
    dataset = read("fashion-mnist")
    assert dataset.inputs.shape == (70_000, 1, 28, 28)
    assert np.bincount(dataset.targets).tolist() == [7000] * 10
    assert np.bincount(dataset.targets[-dataset.num_official_test :]).tolist() == [1000] * 10
    source = describe("fashion-mnist")
    assert (source.capacity, source.num_official_test) == (70_000, 10_000)
