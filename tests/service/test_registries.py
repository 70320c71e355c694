"""What is registered, as the API finds it: the door's checks of it, its labels and large objects, many threads."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text

from service import registry
from service.api.context import Context
from service.cards import DatasetCard
from service.catalog import Catalog, label_of
from service.data.formats import Spec, scan
from service.data.index import Arrays, DatasetError
from service.data.opening import OpenedDataset
from service.db import Database
from service.kinds.planning import open_named
from service.models import Evaluation, RegisteredDataset, RegisteredModel
from service.settings import Settings
from service.storage import LocalFolder, LocalStorage
from service.studies import Inversion
from tests.fixtures import inversion, workerless
from tests.service.datafiles import noise
from tests.service.test_api import assert_problem, post

ROBUST = "cifar10-robust"
CIFAR = Catalog(Settings().assets_dir).models[ROBUST].classes
WHOLE = Arrays(noise(0, 6, 8, 8, 3), np.array([0, 1, 2, 0, -1, 2]), ("a", "b", "c"))


def card(name: str, **changes: Any) -> dict[str, Any]:
    about = {"name": name, "title": "", "size": 600, "image_size": 32, "classes": CIFAR, "digest": name, "licence": ""}
    return DatasetCard.model_validate(about | changes).model_dump(mode="json")


SETS = [
    card("gaps", unlabelled=2),
    card("one", classes=["cat"]),
    card("others", classes=[f"class {i}" for i in range(10)]),
    card("shuffled", classes=["a thing", *CIFAR[:-1]]),
]


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """The API over some more data sets, of which nothing but the cards is there."""
    with workerless(Settings(data_dir=tmp_path_factory.mktemp("known"), port=0)) as api:
        with context(api).db.transaction() as session:
            for each in SETS:
                location = {"root": "bucket", "index": "none"}
                session.add(
                    RegisteredDataset(name=each["name"], digest="", location=location, card=each, created_at=1.0)
                )
        yield api


def context(api: TestClient) -> Context:
    found: Context = api.app.state.context  # type: ignore[attr-defined]
    return found


def job(kind: str, **fields: Any) -> dict[str, Any]:
    return {"kind": kind, **fields}


TRAINING = {"architecture": "cifar-resnet-small", "preset": "cifar-small"}
MODEL = {"name": "mine", "source": {"source": "torchvision", "weights": "ResNet18_Weights.IMAGENET1K_V1"}}
REFUSED: dict[str, tuple[str, dict[str, Any], str, str]] = {
    "training on what lacks labels": (
        "jobs", job("training", dataset="gaps", **TRAINING), "dataset", "gaps has 2 images without a label"),
    "accuracies on what lacks labels": (
        "jobs", job("training", dataset="cifar10-sample", validation="gaps", **TRAINING), "validation", "has 2 images"),
    "an evaluation on what lacks labels": (
        "jobs", job("evaluation", model=ROBUST, dataset="gaps"), "dataset", "has 2 images without a label"),
    "a network tried on what lacks labels": ("models", MODEL | {"dataset": "gaps"}, "dataset", "has 2 images"),
    "one class": ("jobs", job("training", dataset="one", **TRAINING), "dataset", "has 1 class; allowed: 2 or more"),
    "classes that stand elsewhere": (
        "jobs", job("evaluation", model=ROBUST, dataset="shuffled"), "dataset", "airplane stands at another place"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_registered_data_set_is_not_fit_for_is_refused(known: TestClient, case: str) -> None:
    path, sent, field, said = REFUSED[case]
    assert said in assert_problem(known.post(f"/v1/{path}", json=sent), 422, field)["detail"]


def test_as_many_classes_of_other_names_are_taken_in_order(known: TestClient) -> None:
    answer = post(known, job("evaluation", model=ROBUST, dataset="others")).json()
    assert answer["parameters"]["class_of"] == list(range(10))
    assert "they are taken in order" in answer["warnings"][0]


def test_weights_are_sent_whole_or_in_part_and_missing_ones_are_a_problem(api: TestClient) -> None:
    ctx, data = context(api), noise(1, 5_000_000).tobytes()
    ctx.storage.put("weights", data, "application/octet-stream")
    mine = ctx.catalog.models[ROBUST].model_dump(mode="json") | {"name": "mine", "digest": "d"}
    with ctx.db.transaction() as session:
        session.add(RegisteredModel(name="mine", digest="d", key="weights", card=mine, created_at=1.0))
    response = api.get("/v1/models/mine/weights")
    assert (response.content, response.headers["content-length"]) == (data, "5000000")
    for part, found in (("bytes=7-9", data[7:10]), ("bytes=7-", data[7:])):
        response = api.get("/v1/models/mine/weights", headers={"Range": part})
        assert (response.status_code, response.content) == (206, found)
    ctx.storage.delete("weights")
    assert_problem(api.get("/v1/models/mine/weights"), 404)


def test_evaluations_are_listed_without_their_tables_by_class(api: TestClient) -> None:
    ctx, made = context(api), post(api, inversion()).json()
    summary = {"images": 4, "classes": [{"class": "cat"}], "confusion": [[1]]}
    with ctx.db.transaction() as session:
        registry.add_evaluation(made["id"], ROBUST, ctx.catalog.models[ROBUST].digest, "some", summary)(session)
    (found,) = api.get(f"/v1/models/{ROBUST}/evaluations").json()["evaluations"]
    assert found["summary"] == {"images": 4}
    with ctx.db.reading() as session:
        assert session.get_one(Evaluation, made["id"]).summary == summary


def test_a_card_that_is_no_text_is_not_registered() -> None:
    with pytest.raises(ValueError, match="surrogate"):
        registry.add_dataset("job", card("some") | {"classes": ["caf\udce9"]}, {})


def test_class_names_in_an_npz_that_are_no_text_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", images=WHOLE.images, labels=WHOLE.labels, classes=np.array(["a", "caf\udce9", "c"]))
    with pytest.raises(DatasetError, match=r"has 1 classes whose names are not UTF-8: 'caf\\udce9'"):
        scan(LocalFolder(tmp_path), Spec("npz", "x.npz"))


class Counting(LocalStorage):
    """Notes how often a whole object is read, and how many bytes of parts."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.whole, self.part = 0, 0

    def get(self, key: str) -> bytes:
        self.whole += 1
        time.sleep(0.05)  # so that threads meet
        return super().get(key)

    def get_range(self, key: str, start: int, length: int) -> bytes:
        self.part += length
        return super().get_range(key, start, length)


def arrays(storage: LocalStorage, kept: Arrays = WHOLE, **changes: Any) -> OpenedDataset:
    """A registered data set of arrays, kept in the storage."""
    storage.put("arrays", kept.save(), "application/octet-stream")
    about = card("some", classes=list(kept.classes), size=len(kept), digest=kept.digest)
    opened = DatasetCard.model_validate(about | changes)
    return OpenedDataset(opened, {"root": "bucket", "arrays": "arrays"}, Settings(), storage)


def test_labels_are_read_without_the_images(tmp_path: Path) -> None:
    storage = Counting(tmp_path)
    many = Arrays(noise(2, 200, 256, 256, 3), np.arange(200) % 3, ("a", "b", "c"))
    dataset = arrays(storage, many)
    assert dataset.labels.tolist() == many.labels.tolist()
    assert storage.whole == 0
    assert storage.part < 0.3 * many.images.nbytes
    before = storage.part
    assert len(dataset.labels) == 200
    assert storage.part == before
    assert np.array_equal(dataset.image(7), many.images[7])
    assert storage.whole == 1


def test_many_threads_read_the_images_once(tmp_path: Path) -> None:
    storage = Counting(tmp_path)
    dataset = arrays(storage)
    with ThreadPoolExecutor(8) as pool:
        seen = list(pool.map(dataset.image, [3] * 8))
    assert all(np.array_equal(each, WHOLE.images[3]) for each in seen)
    assert storage.whole == 1


def test_arrays_that_are_not_those_registered_are_refused(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    with pytest.raises(ValueError, match="is not the one that was registered"):
        _ = arrays(storage, size=7).labels
    with pytest.raises(ValueError, match="is not the one that was registered"):
        arrays(storage, digest="0").image(0)
    dataset = arrays(storage)
    storage.put("arrays", WHOLE.save()[:100], "application/octet-stream")
    with pytest.raises(ValueError, match="is not the one that was registered"):
        _ = dataset.labels


def test_labels_that_a_request_needs_are_read_before_it_is_planned(tmp_path: Path) -> None:
    storage, catalog = LocalStorage(tmp_path), Catalog(Settings().assets_dir)
    dataset = arrays(storage)
    catalog.datasets = dict(catalog.datasets) | {"some": dataset}
    mine = {"source": "dataset", "dataset": "some", "indices": [1]}
    nested = inversion(targets={"source": "mixed", "parts": [mine]}, start={"source": "gray"})
    open_named(Inversion.model_validate(nested), catalog)
    storage.delete("arrays")
    assert [label_of(dataset, i) for i in (1, 4)] == ["b", None]
    unknown = inversion(targets=mine | {"dataset": "unknown"})
    open_named(Inversion.model_validate(unknown), catalog)


def test_a_catalog_that_is_refreshed_in_transactions_at_once_waits_for_nobody(sqlite_url: str) -> None:
    db, catalog, begun = Database(sqlite_url), Catalog(Settings().assets_dir), threading.Event()

    def writing() -> None:
        with db.transaction() as session:
            session.execute(text("SELECT 1"))
            begun.set()
            time.sleep(0.3)
            catalog.refresh(session)

    def following() -> None:
        begun.wait()
        with db.transaction() as session:  # which waits for the other's end
            catalog.refresh(session)

    start = time.monotonic()
    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(writing), pool.submit(following)]:
            done.result()
    assert time.monotonic() - start < 25, "a lock was waited for until that was given up"
    db.close()
