"""custody.toml and the environment, read once into the packages' config dataclasses: the only reader of either.

Every key has a default in the file that `custody init` writes; an unknown key, a missing one or a wrong type
refuses to start, naming the file, the key and what was expected.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import os
import tomllib
import types
import typing
from dataclasses import dataclass
from pathlib import Path

from policy.errors import ConfigurationError

SETTINGS_VERSION = 1


@dataclass(frozen=True, slots=True)
class CrawlSettings:
    """[crawl]: how the network is asked. Times in seconds, sizes in bytes."""

    product: str
    contact: str
    seeds: tuple[str, ...]
    allow_addresses: tuple[str, ...]
    max_pages: int
    max_depth: int
    same_site: bool
    paths: tuple[str, ...]
    skip_paths: tuple[str, ...]
    sitemaps: bool
    pages_per_unit: int
    images_per_unit: int
    concurrency: int
    concurrency_per_origin: int
    concurrency_per_address: int
    delay_per_origin_s: float
    crawl_delay_max_s: float
    retries: int
    retry_after_max_s: float
    deadline_s: float
    min_rate_bytes_s: int
    max_redirects: int
    max_page_bytes: int
    max_image_bytes: int
    ca_file: str


@dataclass(frozen=True, slots=True)
class ImageSettings:
    """[images]: `size` is the largest shorter side kept, in pixels; pictures are never enlarged.

    `c2pa_trust_anchors`: a PEM file of those whose C2PA signature is trusted; "" trusts nobody. `nsfw_model`: an ONNX
    file of the kind of open_nsfw, `nsfw_sha256` its digest; "" is the packaged one. `face_detector`: an ONNX file of
    the YuNet, SCRFD or CenterFace kind, `face_detector_sha256` its digest; "" is the packaged detector, any digest.
    """

    size: int
    quality: int
    full_chroma: bool
    max_pixels: int
    decode_workers: int
    c2pa_trust_anchors: str
    nsfw_model: str
    nsfw_sha256: str
    face_detector: str
    face_detector_sha256: str


@dataclass(frozen=True, slots=True)
class CaptionSettings:
    """[captions]: which model is asked, and the phrases it may answer with besides the ledger's allowed alt texts.

    `kind`: "retrieval" (a CLIP chooses among known texts) or "coca" (a CoCa writes its own; `decoding` and what follows
    are curation.coca.Decoding's). `templates`: what a known text is embedded in, as "a photo of {}".
    """

    kind: str
    architecture: str
    pretrained: str
    pretrained_sha256: str
    phrase_lists: tuple[str, ...]
    templates: tuple[str, ...]
    unique: bool
    threshold: float
    agreement: bool
    decoding: str
    max_tokens: int
    beams: int
    length_penalty: float
    no_repeat_ngram: int
    top_k: int
    temperature: float
    seed: int


@dataclass(frozen=True, slots=True)
class ClipSettings:
    """[clip]: the model that training/clip.py trains on pairs that have alt text (training/clip_config.py says more).

    `learning_rate`: 0 takes what suits the image tower. `scratch_model`: timm's name. `device`: "cpu" or "cuda".
    """

    image_tower: str
    unlocked_from: int
    scratch_model: str
    steps: int
    batch_size: int
    micro_batch: int
    views: int
    learning_rate: float
    precision: str
    device: str
    feature_bytes: int
    held_out: int
    target_precision: float
    confidence: float
    seed: int


@dataclass(frozen=True, slots=True)
class SealSettings:
    """[seal]: slots a shard, and where datasets lie.

    `store`: "" is the home's own `datasets`; else a file:// or s3:// URL. `store_endpoint`: of an S3 server that is not
    AWS; "" leaves it to boto's configuration, as credentials always are. `cache_bytes`: shards of s3:// kept at hand.
    """

    shard_slots: int
    store: str
    store_endpoint: str
    cache_bytes: int


@dataclass(frozen=True, slots=True)
class TrainingSettings:
    """[training]: a row of training.config.PRESETS, the run's seed, OpenMP threads, steps (0: the preset's).

    `window_shards`: slots are mixed within so many shards (docs/order.md); 0: all with all. `curriculum`,
    `revocable_steps`: whether what can be taken back is fed last, and in which share of the steps.
    `ranks`: processes that train a diffusion model together. `loader_workers`: threads that make batches ahead.
    `reopen_hours`: how long a dataset is read without knowing that
    its generation is the current one. `token_cache_bytes`: token embeddings of captions in cache/tokens.
    """

    preset: str
    seed: int
    threads: int
    steps: int
    window_shards: int
    curriculum: str
    revocable_steps: float
    loader_workers: int
    ranks: int
    reopen_hours: float
    token_cache_bytes: int


@dataclass(frozen=True, slots=True)
class BulkSettings:
    """[bulk]: how img2dataset is run for `crawl --engine img2dataset` (flows/stages/bulk.py says what each is).

    `urls_per_job`: URLs that one run of it is given.
    """

    python: str
    distributor: str
    cluster: str
    processes: int
    threads: int
    urls_per_shard: int
    urls_per_job: int
    timeout_s: int
    retries: int
    egress_guard: str
    egress_probes: tuple[str, ...]
    proxy: str
    java_home: str


@dataclass(frozen=True, slots=True)
class RemovalSettings:
    """[removals]: how requests are handled. Times in days, `proof_timeout_s` in seconds.

    `keep_requester_days`: how long who asked is kept after the request was closed. `dns_server`: "address" or
    "address:port" that is asked for TXT records; "" is the system's. `backups_days`: how long backups of the home are
    kept, which receipts say; 0: not said. `anchors`: a directory or s3:// folder for heads of the chain; "": none.
    `suppression_copy`: a directory outside the home that is told of every approval before it returns; "": none.
    `withdrawal_list_copy`: a file that the signed list of withdrawn models is copied to at each change; "": none.
    """

    keep_requester_days: int
    due_soon_days: int
    dns_server: str
    proof_timeout_s: float
    backups_days: int
    anchors: str
    suppression_copy: str
    withdrawal_list_copy: str


@dataclass(frozen=True, slots=True)
class ScheduleSettings:
    """[schedule]: cron lines in UTC; an empty one is not scheduled."""

    crawl: str
    recheck: str
    removals: str
    models: str
    reports: str


@dataclass(frozen=True, slots=True)
class Settings:
    """All of custody.toml."""

    crawl: CrawlSettings
    images: ImageSettings
    captions: CaptionSettings
    clip: ClipSettings
    seal: SealSettings
    training: TrainingSettings
    bulk: BulkSettings
    removals: RemovalSettings
    schedule: ScheduleSettings


DEFAULT_TEXT = f"""\
# Custody's settings: how it works. What may be kept is policy.toml's business.
version = {SETTINGS_VERSION}

[crawl]
product = "custody"           # sent as user agent; policy.toml names it as product token, for robots.txt
contact = ""                  # a URL or mail address of yours; without it nothing but allow_addresses is contacted
seeds = []                    # pages that scheduled crawls start from
allow_addresses = []          # exact "ip:port" that may be contacted although not public (tests and the demo)
max_pages = 10000
max_depth = 3                 # links followed from a seed
same_site = true              # stay on the seeds' registrable domains
paths = []                    # follow only links whose path begins like one of these, as "/gallery/"; * is anything
skip_paths = []               # and none that begins like one of these
sitemaps = true               # what a seed's robots.txt names as sitemap counts as its links
pages_per_unit = 1000         # work units: a killed crawl asks those that were open again, up to eight of pictures
images_per_unit = 2000
concurrency = 64              # transfers at once that bring something; silent ones do not count
concurrency_per_origin = 6
concurrency_per_address = 24  # however many names lead to one address
delay_per_origin_s = 0.0      # pause between two requests to one origin
crawl_delay_max_s = 30.0      # of the Crawl-delay that a robots.txt asks for
retries = 2                   # of what may succeed on another try: time-outs, resets, 429, 5xx
retry_after_max_s = 60.0      # a server that says "Retry-After" longer is asked again by `crawl --retry transient`
deadline_s = 30.0             # for one try of a URL, all in all
min_rate_bytes_s = 200        # slower than this for ten seconds is given up
max_redirects = 5
max_page_bytes = 5000000
max_image_bytes = 20000000
ca_file = ""                  # certificates (PEM) of the authorities that are trusted; "": the system's

[images]
size = 256                    # largest shorter side kept, in pixels; never enlarged
quality = 95                  # JPEG, without metadata
full_chroma = true            # 4:4:4; false: 4:2:0, smaller by a fifth, and what other downloaders keep
max_pixels = 50000000
decode_workers = 2
# A file of certificates (PEM) of those whose signed C2PA "allowed" is believed; "" believes nobody. A no needs none.
c2pa_trust_anchors = ""
# An ONNX file that takes and gives what open_nsfw does, and the sha256 that it must have; "": the packaged one.
nsfw_model = ""
nsfw_sha256 = ""
# An ONNX file of the YuNet, SCRFD or CenterFace kind that looks for faces, and the sha256 that it must have ("": any);
# "": the packaged detector. Pictures that another detector has seen are looked at anew when they are crawled again.
face_detector = ""
face_detector_sha256 = ""

[captions]
kind = "retrieval"            # a CLIP chooses the nearest known text; or "coca": a CoCa writes one
architecture = ""             # an open_clip architecture; empty with pretrained = "trained:…"
pretrained = "trained:latest" # an open_clip tag, a file (relative: in the home), or "trained:<run>" (retrieval only)
pretrained_sha256 = ""        # what the weights file must have; "": any
phrase_lists = []             # text files, one phrase a line, that captions may be chosen from
templates = ["{{}}"]            # a known text is embedded as the mean over these, as ["a photo of {{}}"]
unique = false                # true for a catalogue: a text that a picture carries is given to no other one
threshold = 0.0               # of a caption's score; 0: the one from which on target_precision is proven
agreement = false             # true: score how every alt text fits its picture, also where policy.toml asks for none
decoding = "beam"             # of a CoCa; or "greedy", "top-k"
max_tokens = 30
beams = 6
length_penalty = 1.0
no_repeat_ngram = 0           # so many words in a row never come twice; 0: they may
top_k = 10
temperature = 1.0
seed = 0

[clip]                         # the CLIP that is trained here, on allowed pairs that have a text
image_tower = "head"          # a projection over frozen EfficientNet-Lite0; or "finetune" it, or "scratch"
unlocked_from = 6             # finetune: the first of its stages that is trained, 1 to 8 (its last convolution)
scratch_model = "vit_tiny_patch16_224"  # scratch: a small model of timm's that does not normalise over the batch
steps = 400
batch_size = 256              # pairs that are told apart in one step
micro_batch = 0               # so many of them in memory at once, with the same gradient; 0: all
views = 1                     # 1: pictures as they are; more: so many variants of each, kept; 0: ever new ones
learning_rate = 0.0           # 0: what suits the image tower
precision = "fp32"            # or "bf16"
device = "cpu"                # or "cuda"
feature_bytes = 2000000000    # of memory, for what frozen towers give
held_out = 250                # pairs never trained on, to measure with
target_precision = 0.9        # captions are kept from the score on from which so many are proven right
confidence = 0.95             # of that proof
seed = 1

[seal]
shard_slots = 1000
store = ""                    # where datasets lie: "" = datasets/ here, or a URL: file:///… or s3://bucket/prefix
store_endpoint = ""           # of an S3 server other than AWS; credentials come from boto's own configuration
cache_bytes = 50000000000     # shards of an s3:// store that are kept in cache/shards

[training]
preset = "demo"
seed = 1
threads = 2
steps = 0                     # 0: the preset's
curriculum = "uniform"        # or "revocable-last": removals of what can be taken back then redo little of a run
revocable_steps = 0.15        # the share of its steps, the last ones, in which such data is fed
window_shards = 0             # mix slots within so many shards at a time, for an s3:// store; 0: all with all
ranks = 1                     # processes that train together, each on its part of every batch; one a GPU
loader_workers = 0            # threads that make batches ahead: worth it where a GPU trains, or shards are fetched
reopen_hours = 24.0           # a removal's old files are let go within this, or the run stops
token_cache_bytes = 10000000000  # captions as their encoder gives them, kept in cache/tokens; 0: none

[bulk]                        # img2dataset, for `crawl --engine img2dataset`: it checks no address that it contacts
python = ""                   # its interpreter, or what starts it elsewhere; "": the one of `make bulk-env`
distributor = "multiprocessing"  # or pyspark, ray
cluster = ""                  # a Spark master or a Ray address; "": this machine
processes = 2
threads = 16
urls_per_shard = 1000
urls_per_job = 100000
timeout_s = 10
retries = 0
egress_guard = ""             # what keeps it from internal addresses, in a sentence; "" = it is not run
egress_probes = []            # "ip:port" that it must not reach; tried before each start
proxy = ""                    # the guard's, where it is one
java_home = ""                # for Spark

[removals]
keep_requester_days = 0       # who asked is forgotten so many days after a request was closed; 0: at once
due_soon_days = 7             # the daily flow counts requests that are due within so many days
dns_server = ""               # "address" or "address:port", asked for TXT records as proof of control; "": the system's
proof_timeout_s = 15.0        # for one look at a proof, all in all
backups_days = 0              # how long backups of this home are kept: receipts say until when; 0: it is not said
anchors = ""                  # where heads of the chain are published, outside this home: a directory, or s3://…
suppression_copy = ""         # a directory outside this home for a copy of what may never come back; "": none is kept
withdrawal_list_copy = ""     # a file, where others can read it, for the signed list of models that were withdrawn

[schedule]                    # cron, UTC; "" = not scheduled
crawl = "0 3 * * *"
recheck = "0 4 * * 1"
removals = "0 6 * * *"
models = "0 22 * * *"         # models are replayed without what was removed since, all of it in one pass
reports = "30 6 * * *"
"""


# What none or too much of would stop a stage, or keep it from ever ending. All else: not negative.
_RANGES = {
    "crawl.max_pages": (1, math.inf),
    "crawl.pages_per_unit": (1, math.inf),
    "crawl.images_per_unit": (1, math.inf),
    "crawl.concurrency": (1, 20_000),
    "crawl.concurrency_per_origin": (1, 100),
    "crawl.concurrency_per_address": (1, 1000),
    "crawl.retries": (0, 10),
    "crawl.deadline_s": (0.1, 3600),
    "crawl.max_page_bytes": (1, math.inf),
    "crawl.max_image_bytes": (1, math.inf),
    "images.size": (8, 4096),
    "images.quality": (1, 100),
    "images.max_pixels": (1, math.inf),
    "images.decode_workers": (1, 256),
    "captions.threshold": (0, 1),
    "captions.max_tokens": (1, 1000),
    "captions.beams": (1, 32),
    "captions.length_penalty": (0, 10),
    "captions.top_k": (1, 10_000),
    "captions.temperature": (0.01, 100),
    "clip.unlocked_from": (1, 8),
    "clip.steps": (1, math.inf),
    "clip.batch_size": (2, 1_000_000),
    "clip.views": (0, 1000),
    "clip.learning_rate": (0, 1),
    "clip.held_out": (1, math.inf),
    "clip.target_precision": (0.01, 0.999),
    "clip.confidence": (0.5, 0.9999),
    "seal.shard_slots": (1, 1_000_000),
    "training.threads": (1, 1024),
    "training.loader_workers": (0, 256),
    "training.ranks": (1, 256),
    "training.window_shards": (0, 1_000_000),
    "training.revocable_steps": (0.001, 0.999),
    "training.reopen_hours": (0.01, 24),
    "bulk.processes": (1, 1024),
    "bulk.threads": (1, 1024),
    "bulk.urls_per_shard": (1, math.inf),
    "bulk.urls_per_job": (1, math.inf),
    "bulk.timeout_s": (1, 3600),
    "removals.keep_requester_days": (0, 3650),
    "removals.due_soon_days": (1, 365),
    "removals.proof_timeout_s": (0.1, 300),
}


def parse(text: str, *, where: str = "custody.toml") -> Settings:
    """Parse custody.toml.

    Raises:
        ConfigurationError: not TOML, unknown or missing key, wrong type, or a value out of range.
    """
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"not valid TOML: {error}", where=where) from error
    version = data.pop("version", None)
    if version != SETTINGS_VERSION:
        found = "is missing" if version is None else f"is {version!r}"
        raise ConfigurationError(f"version {found}, expected {SETTINGS_VERSION}", where=where)
    return _read_table(Settings, data, where, "")


def load(path: Path) -> Settings:
    """Read a home's custody.toml."""
    try:
        return parse(path.read_text("utf-8"), where=str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"cannot be read ({error})", where=str(path)) from error


def default_home() -> Path:
    """CUSTODY_HOME, else the current directory."""
    return Path(os.environ.get("CUSTODY_HOME") or ".")


def prefect_api_configured() -> bool:
    """Whether the environment names a Prefect server to use instead of one of our own."""
    return bool(os.environ.get("PREFECT_API_URL"))


_Section = typing.TypeVar("_Section")


def _read_table(kind: type[_Section], data: dict[str, object], where: str, prefix: str) -> _Section:
    hints = typing.get_type_hints(kind)
    names = [f.name for f in dataclasses.fields(kind)]  # type: ignore[arg-type]  # kind is always one of ours
    for key in data:
        if key not in names:
            close = difflib.get_close_matches(key, names, n=1)
            hint = f"Did you mean {prefix}{close[0]}?" if close else f"Known here: {', '.join(names)}"
            raise ConfigurationError(f"unknown key {prefix}{key}", where=where, remedy=hint)
    for name in names:
        if name not in data:
            raise ConfigurationError(
                f"missing key {prefix}{name}", where=where, remedy="`custody init` in an empty folder shows every key"
            )
    return kind(**{name: _read_value(hints[name], data[name], where, prefix + name) for name in names})


def _read_value(kind: typing.Any, value: object, where: str, key: str) -> object:
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        if not isinstance(value, dict):
            raise ConfigurationError(f"{key} must be a table", where=where)
        return _read_table(kind, value, where, key + ".")
    if isinstance(kind, types.GenericAlias) or typing.get_origin(kind) is tuple:
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise ConfigurationError(f"{key} must be a list of strings", where=where)
        return tuple(value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not kind:
        raise ConfigurationError(f"{key} must be {kind.__name__}, is {value!r}", where=where)
    if isinstance(value, int | float) and not isinstance(value, bool):
        lowest, highest = _RANGES.get(key, (0, math.inf))
        if not math.isfinite(value) or value < 0:
            raise ConfigurationError(f"{key} must not be negative, is {value!r}", where=where)
        if not lowest <= value <= highest:
            allowed = f"at least {lowest}" if highest == math.inf else f"from {lowest} to {highest}"
            raise ConfigurationError(f"{key} must be {allowed}, is {value!r}", where=where)
    return value
