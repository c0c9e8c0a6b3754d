"""Datasets by name: what they hold, what is said of them before loading, and what is refused."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fl_sim.data import DATASETS, Dataset, describe, get, load, named, sets, vision
from fl_sim.data.sets import cifar10, emnist, fashion_mnist, friedman
from fl_sim.errors import DataNotAtHandError, FlSimError, ScenarioError
from fl_sim.population.prepared_data import moments, prepare
from fl_sim.randomness import stream
from fl_sim.scenario.tables import Data
from fl_sim.store.artifacts import Store, digest

DOWNLOADED = ["mnist", "fashion-mnist", "kmnist", "emnist", "cifar10", "cifar100", "svhn"]


@pytest.fixture
def empty(tmp_path, monkeypatch) -> Path:
    """A data root with nothing in it, and no Debian package either."""
    monkeypatch.setenv("FL_SIM_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(fashion_mnist, "DEBIAN", tmp_path / "debian")
    return tmp_path


def idx(array: np.ndarray) -> bytes:
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    return header + array.astype(np.uint8).tobytes()


def write_mnist_like(
    folder: Path, names: tuple[str, ...], ending: str = "", train: int = 3, test: int = 2
) -> list[np.ndarray]:
    """Three training and two test images of 4 x 5 pixels as the publishers' four files."""
    rng = stream(0, "fake")
    shapes = [(train, 4, 5), (train,), (test, 4, 5), (test,)]
    arrays = [rng.integers(0, 10, shape) for shape in shapes]
    for name, array in zip(names, arrays, strict=True):
        path = folder / f"{name}{ending}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(idx(array)) if ending else idx(array))
    return arrays


def read(name: str, count: int = 10, image_size: int | None = None, seed: int = 0) -> Dataset:
    return load(name, count=count, image_size=image_size, seed=seed)


def unlabelled(name: str) -> np.ndarray:
    pool = describe(f"{name}:unlabelled").pool
    assert pool is not None
    return pool(0)[0]


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


@pytest.mark.parametrize("name", ["digits", "diabetes", "glyphs", "unseen-letters", "friedman"])
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
    "content",
    [b"", b"no gzip", gzip.compress(b"\0\0\x08"), gzip.compress(b"\0\0\x0d\x01\0\0\0\0")],
    ids=["empty", "no gzip", "cut header", "of doubles"],  # of its bytes it would have another name each second
)
def test_a_damaged_idx_file_is_named(content, tmp_path):
    path = tmp_path / "images.gz"
    path.write_bytes(content)
    with pytest.raises(FlSimError, match=r"images\.gz cannot be read"):
        fashion_mnist.read_idx(path)


def test_torchvisions_files_are_read_from_the_data_root(empty):
    arrays = write_mnist_like(empty / "data" / "MNIST" / "raw", vision.IDX_NAMES)
    dataset = read("mnist")
    assert np.array_equal(dataset.inputs[3:, 0], arrays[2])
    assert dataset.targets.dtype == np.int64
    assert dataset.num_official_test == 2


def test_emnist_is_turned_the_right_way(empty):
    arrays = write_mnist_like(empty / "data", emnist.images.files)
    dataset = read("emnist")
    assert np.array_equal(dataset.inputs[:3, 0], arrays[0].swapaxes(1, 2))
    assert dataset.classes is not None
    assert len(dataset.classes) == 47


def test_a_damaged_download_says_what_to_delete(empty):
    for file in cifar10.images.files:
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


@pytest.mark.parametrize("name", ["glyphs-pool:seen", "mnist:unlabelled"])
def test_other_unlabelled_sets_are_refused_too(name, empty):
    write_mnist_like(empty / "data" / "MNIST" / "raw", vision.IDX_NAMES)
    assert describe(name).task == "unlabelled"
    with pytest.raises(ScenarioError, match="has no labels; name it among"):
        read(name)


@pytest.mark.parametrize("name", [name for name, source in DATASETS.items() if source.parts])
def test_a_published_set_is_split_into_two_parts(name):
    whole, labelled, unlabelled = (describe(name + part) for part in ("", ":labelled", ":unlabelled"))
    assert whole.capacity is not None
    assert unlabelled.capacity is not None
    assert labelled.capacity == whole.capacity - unlabelled.capacity
    assert labelled.capacity - labelled.num_official_test == (whole.capacity - whole.num_official_test) // 6
    assert (labelled.num_official_test, labelled.num_classes) == (whole.num_official_test, whole.num_classes)
    assert labelled.to_get == whole.to_get == unlabelled.to_get
    assert len({source.fingerprint() for source in (whole, labelled, unlabelled)}) == 3


def test_the_two_parts_of_a_published_set_share_no_image(empty):
    write_mnist_like(empty / "data" / "MNIST" / "raw", vision.IDX_NAMES, train=14, test=3)
    whole, labelled, others = read("mnist"), read("mnist:labelled"), unlabelled("mnist")
    assert np.array_equal(labelled.inputs, whole.inputs[[0, 1, 14, 15, 16]])
    assert np.array_equal(labelled.targets, whole.targets[[0, 1, 14, 15, 16]])
    assert (labelled.num_official_test, labelled.classes) == (3, whole.classes)
    assert np.array_equal(others, whole.inputs[2:14])


def test_a_part_is_got_as_the_whole_is(empty, monkeypatch):
    asked = []
    monkeypatch.setattr(vision, "_build", lambda spec, part, download: asked.append((spec.class_name, download)))
    assert get("fashion-mnist:labelled").startswith("fashion-mnist:labelled is now in")
    assert asked == [("FashionMNIST", True)] * 2
    with pytest.raises(DataNotAtHandError, match="fl-sim data get fashion-mnist\n"):
        read("fashion-mnist:labelled")


@pytest.mark.parametrize(("name", "nearest"), [
    ("fashion-mnist:labeled", "fashion-mnist:labelled"),
    ("mnist:unlabeled", "mnist:unlabelled"),
    ("glyphs-pool:sen", "glyphs-pool:seen"),
    ("digits:labelled", "mnist:labelled"),
])  # fmt: skip
def test_parts_that_there_are_not_are_refused(name, nearest):
    with pytest.raises(ScenarioError, match=rf"no dataset '{name}'; nearest: {nearest} .*NAME:labelled"):
        describe(name)


def test_a_users_module_may_have_the_name_of_a_dataset():
    assert describe("mnist:train").origin == "yours"


def test_the_names_message_begins_with_the_key_it_stands_at():
    with pytest.raises(ScenarioError, match=r"^reference\.sets: no dataset 'mnits'"):
        describe("mnits", "reference.sets")


# ------------------------------------------------------------------------------------------------------- made ready


def made_ready(tmp_path: Path, name: str = "digits", **parts: object):
    return prepare(Data.model_validate({"name": name, **parts}), 0, Store(tmp_path / "store"))


def test_what_was_stored_before_keeps_its_key_and_its_rows(tmp_path):
    found = made_ready(tmp_path, train=20, server=5, calibration=10, test=7)
    told = {"name": "digits", "image_size": None, "train": 20, "server": 5, "calibration": 10, "test": 7, "seed": 0}
    assert found.key == digest(**told, version=1, source=describe("digits").fingerprint())
    rows = stream(0, "data", "digits").permutation(1797)[:42]
    assert np.array_equal(found.inputs, read("digits").inputs[rows])
    assert np.array_equal(found.mean, moments(found.inputs[:20])[0])


def test_without_training_rows_the_servers_are_the_measure(tmp_path):
    found = made_ready(tmp_path, train=0, server=30, calibration=10, test=5)
    assert [len(found.rows(part)) for part in ("train", "server", "calibration", "test")] == [0, 30, 10, 5]
    for mine, theirs in zip((found.mean, found.std), moments(found.inputs[:30]), strict=True):
        assert np.array_equal(mine, theirs)
    regression = made_ready(tmp_path, "diabetes", train=0, server=30, calibration=10, test=5)
    assert regression.target_mean == pytest.approx(float(regression.targets[:30].mean()))
    with pytest.raises(ScenarioError, match=r"data\.train = 0 and data\.server = 0"):
        made_ready(tmp_path, train=0, calibration=10, test=5)


def test_calibration_rows_may_come_from_the_publishers_test_set(empty):
    write_mnist_like(empty / "data" / "MNIST" / "raw", vision.IDX_NAMES, train=12, test=9)
    whole = read("mnist:labelled").inputs
    found = made_ready(empty, "mnist:labelled", train=0, server=2, calibration=4, test=5, calibration_from="test")
    place = {image.tobytes(): row for row, image in enumerate(whole)}
    rows = [place[image.tobytes()] for image in found.inputs]
    assert sorted(rows[:2]) == [0, 1]
    assert sorted(rows[2:]) == list(range(2, 11))  # all nine, each once
    assert found.evaluated == (2, 11)


def test_moments_by_hand():
    mean, std = moments(np.array([[[[0, 2]], [[5, 5]]], [[[4, 2]], [[5, 5]]]], np.uint8))
    assert (mean.ravel().tolist(), std.ravel().tolist()) == ([2, 5], [np.float32(2**0.5), 1])
    assert mean.shape == std.shape == (2, 1, 1)
    assert [one.tolist() for one in moments(np.array([[1, 3], [3, 3]], np.float32))] == [[2, 3], [1, 1]]


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


def image_at(path: Path, mode: str = "RGB", size: tuple[int, int] = (4, 4)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size).save(path)


def spoil(root: Path, how: str) -> None:
    """A class folder with one good image, and beside it something odd."""
    image_at(root / "cat" / "good.png")
    odd = root / "cat" / "odd.png"
    if how == "16 bits":
        image_at(odd, "I;16")
    elif how == "floats":
        image_at(odd.with_suffix(".tiff"), "F")
    elif how == "splits":
        (root / "cat").rename(root / "train")
        image_at(root / "test" / "cat" / "good.png")
    elif how == "a circle":
        (root / "cat" / "again").symlink_to(root / "cat")
    elif how == "a dangling link":
        odd.symlink_to(root / "nowhere.png")
    elif how == "a pipe":
        os.mkfifo(odd)
    elif how == "a bomb":
        image_at(odd, "1", (15_000, 15_000))
    elif how == "a cut file":
        odd.write_bytes((root / "cat" / "good.png").read_bytes()[:40])
    elif how == "text":
        odd.write_text("no image")
    elif how == "an empty class":
        (root / "dog").mkdir()


@pytest.mark.parametrize(("how", "told"), [
    ("16 bits", r"odd\.png: cannot be decoded \(its mode is I;16, and 8 bits a channel"), ("floats", "its mode is F"),
    ("splits", "holds test, train, which are splits and no classes; name one"), ("a circle", "again, by a link"),
    ("a dangling link", r"odd\.png: is a link that leads nowhere"), ("a pipe", r"odd\.png: is no plain file"),
    ("a bomb", r"odd\.png: cannot be decoded \(Image size \(225000000"), ("a cut file", r"odd\.png: cannot be decoded"),
    ("text", r"odd\.png: cannot be decoded"), ("an empty class", "class folder dog holds no image"),
])  # fmt: skip
def test_odd_image_folders_are_refused_by_name(tmp_path, how, told):
    spoil(tmp_path, how)
    with pytest.raises(FlSimError, match=told):
        read(f"image-folder:{tmp_path}", image_size=4)


def test_hidden_folders_and_files_are_no_images(tmp_path):
    image_at(tmp_path / "cat" / "good.png")
    image_at(tmp_path / ".cache" / "one.png")
    image_at(tmp_path / "cat" / ".thumbnails" / "one.png")
    image_at(tmp_path / "cat" / ".hidden.png")
    dataset = read(f"image-folder:{tmp_path}", image_size=4)
    assert (dataset.classes, len(dataset.inputs)) == (("cat",), 1)


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
        (np.zeros((2, 3, 4)), np.zeros(2, np.float32), None, 0, "inputs are float64"),
        (np.zeros((2, 3), np.float32), np.zeros((2, 1)), None, 0, "must be float32"),
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
    labelled, others = read("fashion-mnist:labelled"), unlabelled("fashion-mnist")
    assert np.array_equal(np.concatenate([labelled.inputs[:10_000], others]), dataset.inputs[:60_000])
    assert np.array_equal(labelled.inputs[10_000:], dataset.inputs[60_000:])


def test_a_data_sets_name_is_its_files():
    from importlib import import_module
    from pkgutil import iter_modules

    files = [module.name for module in iter_modules(sets.__path__)]
    assert len(files) >= 12
    for name in files:
        module = import_module(f"fl_sim.data.sets.{name}")
        assert DATASETS[name.replace("_", "-")] in vars(module).values()
