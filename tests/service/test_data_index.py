"""Indexes: what they keep, what their digest sees, and how large they grow."""

import io
import time
from dataclasses import fields

import numpy as np
import pytest

from service.data.index import Arrays, Index, choose_per_class
from tests.service.datafiles import noise

FILES = [("cat/a.png", 10), ("cat/ü.png", 20), ("dog/b.png", 30)]


def index(prefix: str = "there/", label: tuple[int, ...] = (0, 0, 1), files: list[tuple[str, int]] = FILES) -> Index:
    return Index.of(prefix, ("cat", "dog"), files, label)


def test_an_index_says_where_each_image_lies() -> None:
    found = index()
    assert [found.name(i) for i in range(3)] == [name for name, _ in FILES]
    assert (found.files.tolist(), found.offset.tolist(), found.length.tolist()) == ([0, 1, 2], [0, 0, 0], [10, 20, 30])
    assert found.labels.tolist() == [0, 0, 1]


def test_an_index_survives_being_saved() -> None:
    spans = np.array([[1, 512, 7], [0, 0, 10], [1, 2048, 9]])
    before = Index.of("p/", ("a",), [("x.tar", 4096), ("not-utf8-\udcff.tar", 8192)], [0, -1, 0], spans)
    after = Index.load(before.save())
    for field in fields(Index):
        old, new = getattr(before, field.name), getattr(after, field.name)
        assert np.array_equal(old, new)
        assert getattr(old, "dtype", None) == getattr(new, "dtype", None)
    assert after.name(1) == "not-utf8-\udcff.tar"
    assert after.digest == before.digest


def test_a_file_that_needs_unpickling_is_not_loaded() -> None:
    out = io.BytesIO()
    np.savez(out, about=np.array([{"prefix": ""}], dtype=object))
    with pytest.raises(ValueError, match="allow_pickle=False"):
        Index.load(out.getvalue())


def test_the_digest_sees_names_sizes_labels_and_classes_and_not_the_prefix() -> None:
    same = index().digest
    assert index(prefix="elsewhere/").digest == same
    others = [
        index(label=(0, 1, 1)),
        index(files=[("cat/c.png", 10), *FILES[1:]]),
        index(files=[("cat/a.png", 11), *FILES[1:]]),
        Index.of("there/", ("cat", "wolf"), FILES, [0, 0, 1]),
        index().select(np.array([0, 2])),
        index().select(np.array([1, 0, 2])),
    ]
    assert len({same, *(other.digest for other in others)}) == len(others) + 1


def test_a_selection_has_the_digest_of_an_index_of_just_those_files() -> None:
    chosen = index().select(np.array([0, 2]))
    assert chosen.digest == Index.of("", ("cat", "dog"), [FILES[0], FILES[2]], [0, 1]).digest


def test_arrays_have_a_digest_of_pixels_labels_and_classes() -> None:
    images, labels = noise(0, 3, 4, 5, 3), np.array([0, 1, 0])
    digests = {
        Arrays(pixels, numbers, classes).digest
        for pixels in (images, noise(1, 3, 4, 5, 3), images.reshape(3, 5, 4, 3))
        for numbers in (labels, 1 - labels)
        for classes in (("a", "b"), ("a", "c"))
    }
    assert len(digests) == 12
    assert Arrays(images.copy(), labels.copy(), ("a", "b")).digest in digests


def test_as_many_of_each_class_are_drawn_and_the_seed_decides_which() -> None:
    labels = np.repeat([0, 1, 2, -1], [50, 20, 80, 9])
    rows = choose_per_class(labels)
    assert np.bincount(labels[rows]).tolist() == [20, 20, 20]
    assert len(set(rows.tolist())) == 60
    assert (np.diff(rows) > 0).all()
    assert np.array_equal(rows, choose_per_class(labels, seed=0))
    assert not np.array_equal(rows, choose_per_class(labels, seed=1))
    assert np.bincount(labels[choose_per_class(labels, 3)]).tolist() == [3, 3, 3]


@pytest.mark.parametrize(("labels", "wanted", "says"), [([0, 0, 1], 2, "class 1 has 1"), ([-1, -1], None, "no image")])
def test_too_few_images_of_a_class_is_an_error(labels: list[int], wanted: int | None, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        choose_per_class(np.array(labels), wanted)


def test_two_hundred_thousand_images_take_little_time_and_memory() -> None:
    names = [(f"n{c:08}/n{c:08}_{i}.JPEG", 100_000 + i) for c in range(1000) for i in range(200)]
    labels = np.repeat(np.arange(1000), 200)
    began = time.process_time()
    found = Index.of("train/", [f"n{c:08}" for c in range(1000)], names, labels)
    data = found.save()
    again = Index.load(data)
    assert again.digest == found.digest
    assert time.process_time() - began < 40
    assert len(again) == 200_000
    assert again.name(199_999) == names[-1][0]
    assert len(data) < 10_000_000
    assert sum(getattr(again, field.name).nbytes for field in fields(Index)[2:]) < 20_000_000
