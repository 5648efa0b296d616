"""The stages on datasets in a bucket: sealed, verified, opened and taken out of, on a real S3 server."""

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from curation.shard_reader import DatasetReader, read_generation
from curation.storage import ObjectStore
from flows import settings
from flows.home import Home
from flows.stages.removing import applying, approving, requests
from flows.stages.removing.needles import Needles
from flows.stages.removing.scanning import scan_store
from flows.stages.seal import Sealed, seal
from flows.stages.train import open_dataset
from flows.stages.verify import verify
from policy.errors import BusyError, ConfigurationError, InputError, StorageError
from policy.provenance import ScheduleEntry
from tests.builders import replaced
from tests.flows.sealable import sealable_home
from tests.training.toy_dataset import assert_same
from training.batches import Batcher, EmptySlots, TombstoneWatch
from training.config import preset
from training.loading import GenerationWatch, Loader
from training.order import Order, whole_epochs

if TYPE_CHECKING:
    from tests.s3 import S3Server

pytest_plugins = ("tests.s3",)

COUNT, SHARD_SLOTS = 10, 4
NAME = "book"


def picture(n: int) -> bytes:
    """A JPEG of its own."""
    held = io.BytesIO()
    colours = np.random.default_rng(n).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(colours).resize((32, 32)).save(held, "JPEG")
    return held.getvalue()


def configured(store: str, endpoint: str = "") -> str:
    """custody.toml with a store."""
    return replaced(
        settings.DEFAULT_TEXT,
        {
            "shard_slots = 1000": f"shard_slots = {SHARD_SLOTS}",
            'store = ""  ': f"store = {json.dumps(store)}  ",
            'store_endpoint = ""  ': f"store_endpoint = {json.dumps(endpoint)}  ",
        },
    )


@pytest.fixture(params=["plain", "versioned"])
def bucket(request: pytest.FixtureRequest, s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a new bucket, without and with versioning, and credentials for it."""
    # custody.toml names the address.
    s3.sign_in({k: v for k, v in s3.environment().items() if k != "AWS_ENDPOINT_URL"}, monkeypatch)
    name = f"f-{abs(hash(str(tmp_path))):x}"
    s3.make_bucket(name, versioned=request.param == "versioned")
    return name


@pytest.fixture
def home(s3: S3Server, bucket: str, tmp_path: Path) -> Home:
    """A home with ten allowed samples whose datasets lie in the bucket."""
    text = configured(f"s3://{bucket}/data/sets", s3.endpoint)
    return sealable_home(tmp_path / "home", COUNT, picture, settings_text=text)


def sealed(home: Home) -> Sealed:
    return seal(home, name=NAME)


def test_a_dataset_in_a_bucket_is_sealed_verified_and_opened(s3: S3Server, bucket: str, home: Home) -> None:
    """`custody seal` names the shards by their URLs, `verify` finds all of it sound, training reads it."""
    said = sealed(home)
    root = f"s3://{bucket}/data/sets/{NAME}/generation-0000"
    assert [shard.path for shard in said.shards] == [f"{root}/shard-{n:06d}.tar" for n in range(3)]
    assert sum(shard.count for shard in said.shards) == said.slots == COUNT
    assert verify(home) == []
    with open_dataset(home, NAME) as reader:
        assert reader.root == said.root
        assert sorted(s.image for s in reader.samples()) == sorted(picture(n) for n in range(COUNT))
    assert sealed(home) == said
    assert not home.datasets_path.exists()
    with pytest.raises(InputError, match=f"There are: {NAME}"):
        open_dataset(home, "another")


def test_a_removal_leaves_nothing_in_the_bucket_or_at_home(s3: S3Server, bucket: str, home: Home) -> None:
    """From request to erasure: no object, no older version, no cached shard and no spool holds the picture."""
    sealed(home)
    with home.ledger(readonly=True) as ledger:
        [(url, key, ordinal, n)] = ledger.query(
            "SELECT o.image_url, s.sample_key, s.ordinal, CAST(regexp_extract(o.image_url, '([0-9]+).jpg', 1) AS INT) "
            "FROM slot s JOIN occurrence o USING (pair_key) ORDER BY s.ordinal LIMIT 1"
        )
    with open_dataset(home, NAME) as reader:
        assert reader.key(ordinal) == key
        assert reader.image_bytes(ordinal) == picture(n)
    request = requests.add(home, "url", url)
    approving.approve(home, request.id, by="a test", reason="it was asked for")
    [told] = applying.apply(home, request.id)
    assert (told.state, [(slot.dataset, slot.ordinal) for slot in told.slots]) == ("applied", [(NAME, ordinal)])
    held = [data or b"" for _, _, data in s3.versions(bucket)]
    held += [path.read_bytes() for path in home.path.rglob("*") if path.is_file()]
    assert not [data for data in held if picture(n) in data or key.encode() in data or bytes.fromhex(key) in data]
    assert {name.split("/")[3] for name in s3.objects(bucket)} == {"dataset.json", "leaves.bin", "generation-0001"}
    assert verify(home) == []
    with open_dataset(home, NAME) as reader:
        assert [reader.is_live(o) for o in range(COUNT)] == [o != ordinal for o in range(COUNT)]
    assert [one.state for one in applying.apply(home, request.id)] == ["applied"]
    assert read_generation(home.dataset(NAME), 1).removals == (request.id,)


@pytest.mark.parametrize("bucket", ["versioned"], indirect=True)
def test_the_needle_scan_reads_every_version_of_every_object(s3: S3Server, bucket: str) -> None:
    """What a bucket keeps of an object that was overwritten is found, packed or not; the place names no key."""
    url, key = "https://museum.example/gallery/7.jpg", "0123456789abcdef" * 2
    for name, bodies in {
        "a.txt": (f"see {url}".encode(), b"nothing"),
        "b.gz": (b"nothing", gzip.compress(bytes(9_000_000) + url.encode())),
        f"{key}.txt": (b"nothing",),
    }.items():
        for body in bodies:
            s3.write(bucket, f"data/{name}", body)
    store = ObjectStore(f"s3://{bucket}/data", endpoint=s3.endpoint)
    report = scan_store(store, Needles.of_values([url, key]))
    assert report.files == 5
    assert len(report.hits) == 3
    assert any("a.txt, an older version" in hit.where for hit in report.hits)
    assert any(hit.where.endswith("b.gz") for hit in report.hits)
    assert not [hit for hit in report.hits if key in hit.where]
    assert report.unread == ()


@pytest.mark.parametrize("bucket", ["plain"], indirect=True)
def test_a_training_over_a_bucket_outlives_a_removal(s3: S3Server, bucket: str, home: Home, tmp_path: Path) -> None:
    """Batches that were made ahead, while the removal takes objects and cache away, are those of a local copy."""
    sealed(home)
    for name, data in s3.objects(bucket).items():
        path = tmp_path / "copy" / Path(name).relative_to("data/sets")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    config = preset("tiny")
    order = Order("key", whole_epochs(COUNT, config.steps, config.batch_size), config.batch_size)
    gone, batches, empty = 1, [], EmptySlots()
    with (
        open_dataset(home, NAME) as reader,
        Loader(Batcher(reader, order, config), workers=2) as loader,
    ):
        watch, generations = TombstoneWatch(home.tombstones_path, NAME), GenerationWatch(reader, max_age_s=1e-9)
        for step in range(config.steps):
            if step == 5:
                request = requests.add(home, "key", reader.key(gone) or "")
                approving.approve(home, request.id, by="a test", reason="it was asked for")
                applying.apply(home, request.id)
            empty.enter(watch.look() or (), step)
            empty.enter(generations.look() or (), step)
            batches.append(loader.batch(step, empty))
        assert reader.generation.number == 1
    assert empty.entries == (ScheduleEntry(gone, 5),)
    with DatasetReader.open(tmp_path / "copy" / NAME) as local:
        for step, batch in enumerate(batches):
            assert_same(batch, Batcher(local, order, config).batch(step, empty))


def test_what_was_changed_in_the_bucket_fails_verification(s3: S3Server, bucket: str, home: Home) -> None:
    """A shard that was altered, and a dataset that the ledger does not know, are failures that name their URLs."""
    sealed(home)
    tar = f"data/sets/{NAME}/generation-0000/shard-000001.tar"
    data = bytearray(s3.read(bucket, tar))
    data[600] ^= 1
    s3.write(bucket, tar, bytes(data))
    for name in ("dataset.json", "leaves.bin"):
        s3.write(bucket, f"data/sets/stranger/{name}", s3.read(bucket, f"data/sets/{NAME}/{name}"))
    failures = verify(home)
    assert any("shard-000001.tar: its bytes are not those" in failure.what for failure in failures)
    assert any(
        (f.what, f.where.rsplit("/", 1)[1]) == ("a dataset that the ledger does not know", "stranger") for f in failures
    )
    assert all(failure.where.startswith(f"s3://{bucket}/data/sets") for failure in failures)


def test_one_home_writes_a_dataset_once_at_a_time(home: Home) -> None:
    """While one command writes, another of the same home is told so."""
    dataset = home.dataset(NAME)
    assert not isinstance(dataset, Path)
    with dataset.locked(), pytest.raises(BusyError, match="another process"):
        sealed(home)


def test_a_server_that_is_gone_is_named(s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nobody listens, every command that needs the dataset says so and what to look at."""
    monkeypatch.setattr("curation.storage._ATTEMPTS", 1)  # nobody will listen later either
    for name, value in s3.environment().items():
        monkeypatch.setenv(name, value)
    home = sealable_home(tmp_path / "home", 1, picture, settings_text=configured("s3://bucket/x", "http://127.0.0.1:1"))
    for command in (lambda: sealed(home), lambda: verify(home), lambda: open_dataset(home, NAME)):
        with pytest.raises(StorageError, match="cannot be reached"):
            command()


def test_a_store_on_local_disk_is_a_directory_elsewhere(tmp_path: Path) -> None:
    """file:// moves the datasets out of the home; all else is as with those within."""
    store = tmp_path / "a big disk"
    home = sealable_home(tmp_path / "home", COUNT, picture, settings_text=configured(store.as_uri()))
    said = sealed(home)
    assert said.shards[0].path == str(store / NAME / "generation-0000" / "shard-000000.tar")
    assert verify(home) == []
    with DatasetReader.open(store / NAME) as reader:
        assert reader.root == said.root
    assert home.dataset_names() == (NAME,)
    assert not (home.path / "datasets").exists()


@pytest.mark.parametrize(
    ("store", "message"),
    [
        ("datasets", "no URL"),
        ("https://a.example/bucket", "https:// is not opened here"),
        ("s3://", "names no bucket"),
        ("file:datasets", "no URL"),
        ("s3://key:secret@bucket", "credentials do not belong"),
    ],
)
def test_a_store_that_is_none_is_refused(tmp_path: Path, store: str, message: str) -> None:
    """What seal.store cannot mean is a ConfigurationError that names the key, before anything is looked for."""
    home = Home.create(tmp_path / "home", settings_text=configured(store))
    with pytest.raises(ConfigurationError, match=message) as caught:
        home.dataset(NAME)
    assert "seal.store" in str(caught.value)
    assert "key:secret" not in str(caught.value)
