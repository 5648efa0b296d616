"""Faces are looked for in what nothing cheaper refuses, and later where that changes its mind."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from curation.pixel_store import PixelStore
from flows import settings
from flows.cli import cli
from flows.home import Home
from flows.stages import crawl, decide, look, recheck, seal
from flows.stages.crawl import Job
from flows.stages.evidence import newest_evidence
from policy.evidence import Evidence
from policy.ruleset import Ruleset
from tests.builders import ask, replaced
from tests.flows.site import Answer, Site
from tests.flows.test_faces import BY, MODEL, plain, red_left

NC = "https://creativecommons.org/licenses/by-nc/4.0/"
PROHIBITED = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about="" xmlns:plus="http://ns.useplus.org/ldf/xmp/1.0/"'
    ' plus:DataMining="http://ns.useplus.org/ldf/vocab/DMI-PROHIBITED"/></rdf:RDF></x:xmpmeta>'
)


def dot(row: int, side: int = 160, xmp: str = "") -> bytes:
    """What the model takes for one face: four red pixels a side, in a row of cells of its own."""
    pixels = np.full((side, side, 3), (30, 90, 90), np.uint8)
    pixels[8 * row : 8 * row + 4, 24:28] = (255, 0, 0)
    said, held = PngInfo(), io.BytesIO()
    if xmp:
        said.add_itxt("XML:com.adobe.xmp", xmp)
    Image.fromarray(pixels).save(held, "PNG", pnginfo=said)
    return held.getvalue()


def page(licence: str = BY) -> bytes:
    names = ("free", "quiet", "reserved", "tiny")
    shown = "".join(f'<img src="/{name}.png" alt="a red dot on a green wall">' for name in names)
    return f'<link rel="license" href="{licence}">{shown}'.encode()


@pytest.fixture
def site() -> Iterator[Site]:
    """Four pictures with a face: three of them are refused by a header, by their own bytes, by their size."""
    answers = {
        "/": Answer(page()),
        "/robots.txt": Answer(b"", "text/plain"),
        "/free.png": Answer(dot(4), "image/png"),
        "/quiet.png": Answer(dot(6), "image/png", headers=[("X-Robots-Tag", "noai")]),
        "/reserved.png": Answer(dot(8, xmp=PROHIBITED), "image/png"),
        "/tiny.png": Answer(dot(3, side=48), "image/png"),
    }
    with Site(answers) as site:
        yield site


@pytest.fixture
def home(tmp_path: Path, site: Site, fresh_home: Callable[..., Home]) -> Home:
    """It blurs faces, which the model finds in the red dots."""
    text = replaced(
        settings.DEFAULT_TEXT,
        {
            "allow_addresses = [] ": f'allow_addresses = ["{site.address}"] ',
            "decode_workers = 2": "decode_workers = 1",
            'face_detector = ""': 'face_detector = "mine.onnx"',
        },
    )
    home = fresh_home(tmp_path / "home", settings_text=text, policy_text=policy())
    (home.path / "mine.onnx").write_bytes(MODEL)
    return home


def policy(**changes: str) -> str:
    default = Ruleset.default_text()
    asked = default.partition("\nmechanisms = ")[2].partition("\n")[0]
    said = {asked: '["robots", "x_robots", "xmp", "licence", "faces", "size", "text", "tombstone"]'}
    return replaced(default, said | {'mode = "deny"': 'mode = "blur"'} | changes)


def crawled(home: Home, site: Site, job: Job | None = None) -> None:
    crawl.crawl(Home.open(home.path), job or Job(seeds=(site.url("/"),)))
    decide.decide(Home.open(home.path))


def faces(home: Home) -> dict[str, int | None]:
    """Picture -> the faces of its newest evidence."""
    rows = ask(
        home,
        "SELECT image_url, json_array_length(body_json, '$.faces') FROM evidence JOIN occurrence USING (pair_key)"
        " QUALIFY row_number() OVER (PARTITION BY pair_key ORDER BY evidence.batch_seq DESC, evidence.row_no DESC) = 1",
    )
    return {url.rpartition("/")[2].removesuffix(".png"): count for url, count in rows}


def standing(home: Home) -> dict[str, tuple[str, str]]:
    rows = ask(home, "SELECT image_url, s.verdict, reason_code FROM standing s JOIN occurrence USING (pair_key)")
    return {url.rpartition("/")[2].removesuffix(".png"): (verdict, code) for url, verdict, code in set(rows)}


def kept(home: Home) -> list[bytes]:
    store = PixelStore(home.pixels_path)
    return [store.get(sha) for sha in sorted(store.keys())]


def test_nobody_looks_at_what_a_header_its_own_bytes_or_its_size_refuses(home: Home, site: Site) -> None:
    """Its faces stay not observed, which is never "no face", and no pixels of it are kept, blurred or not."""
    crawl.crawl(home, Job(seeds=(site.url("/"),)))
    assert faces(home) == {"free": 1, "quiet": None, "reserved": None, "tiny": None}
    assert [red_left(jpeg) for jpeg in kept(home)] == [0]
    decide.decide(home)
    said = ask(home, "SELECT verdict, reason_code, count(*) FROM latest_decision WHERE rule = 'faces' GROUP BY ALL")
    assert sorted(said) == [("allow", "face-blur", 1), ("defer", "not-observed", 3)]
    assert standing(home)["free"][0] == "allow"


def test_a_ruleset_that_lets_it_pass_has_it_looked_at_by_the_next_recheck(home: Home, site: Site) -> None:
    """Judged anew it waits for a look, and no longer: the recheck asks for it, blurs it and keeps it."""
    crawled(home, site)
    (home.path / "policy.toml").write_text(policy(**{"min_side = 64": "min_side = 32"}))
    decide.decide(Home.open(home.path))
    assert standing(home)["tiny"] == ("defer", "not-observed")
    recheck.recheck(Home.open(home.path))
    assert standing(home)["tiny"][0] == "allow"
    assert faces(home) == {"free": 1, "quiet": None, "reserved": None, "tiny": 1}
    assert [red_left(jpeg) for jpeg in kept(home)] == [0, 0]
    assert site.requests["/reserved.png"] == site.requests["/free.png"] == 1  # what is refused, or known, is not asked


def test_a_licence_that_was_lifted_has_all_looked_at_by_the_next_crawl(home: Home, site: Site) -> None:
    """Under a licence that the ruleset refuses nobody looks; once the page states another, the crawl does."""
    site.answers["/"] = Answer(page(NC))
    crawled(home, site)
    assert set(faces(home).values()) == {None}
    assert kept(home) == []
    site.answers["/"] = Answer(page(BY))
    crawled(home, site)
    assert faces(home) == {"free": 1, "quiet": None, "reserved": None, "tiny": None}
    assert standing(home)["free"][0] == "allow"


def test_what_waits_for_something_else_is_looked_at(home: Home, site: Site) -> None:
    """A rule that defers may come round without the picture being asked for again: its faces are known by then."""
    (home.path / "policy.toml").write_text(policy(**{'unknown = "deny"': 'unknown = "defer"'}))
    site.answers["/"] = Answer(page("https://example.org/terms"))
    crawled(home, site)
    assert standing(home)["free"] == ("defer", "licence-unknown")
    assert faces(home)["free"] == 1
    assert len(kept(home)) == 1


def test_a_blurred_sample_says_so_wherever_it_is_attributed(home: Home, site: Site) -> None:
    """CC BY asks to indicate changes: in the row of `attribution` and in the shard's .json, in words and raw."""
    site.answers["/plain.png"] = Answer(plain(), "image/png")
    site.answers["/"] = Answer(page() + b'<img src="/plain.png" alt="a cloth of one colour">')
    crawled(home, site)
    sealed = seal.seal(Home.open(home.path), name="both")
    assert sealed.slots == 2
    said = {}
    for shard in sealed.shards:
        with tarfile.open(home.path / shard.path) as tar:
            held = [tar.extractfile(member) for member in tar if member.name.endswith(".json")]
            said |= {one["content_sha256"]: one for one in (json.load(file) for file in held if file is not None)}
    blurred = said[hashlib.sha256(dot(4)).hexdigest()]
    assert blurred["transforms"] == ["blur-faces/1 n=1 from=0.7"]
    assert blurred["changes"].startswith("1 face blurred; shorter side at most ")
    whole = said[hashlib.sha256(plain()).hexdigest()]
    assert "transforms" not in whole
    assert whole["changes"].startswith("shorter side")
    rows = ask(home, "SELECT changes FROM attribution JOIN slot USING (dataset, ordinal) ORDER BY changes")
    assert [changes for (changes,) in rows] == sorted([blurred["changes"], whole["changes"]])


def look_policy(mode: str) -> str:
    """It asks for quality as well, of which a red dot on a wall has little."""
    bounds = {"min_entropy = 0.2": "min_entropy = 0.0", "min_sharpness = 0.25": "min_sharpness = 0.0"}
    return replaced(policy(), {'"size", ': '"size", "quality", ', 'mode = "blur"': f'mode = "{mode}"'} | bounds)


def said_of(home: Home, sha: str) -> Evidence:
    """The newest evidence of the one pair that shows a content."""
    with home.ledger(readonly=True) as ledger:
        ((pair,),) = ledger.query("SELECT DISTINCT pair_key FROM evidence WHERE content_sha256 = ?", [sha])
        return newest_evidence(ledger, [pair])[pair]


def test_what_was_measured_of_blurred_pixels_is_not_said_of_others(home: Home, site: Site, tmp_path: Path) -> None:
    """After a change of mode scores, comparison and caption are taken back with the pixels, and measured anew."""
    (home.path / "policy.toml").write_text(look_policy("blur"))
    crawled(home, site)
    look.look(Home.open(home.path))
    sha = hashlib.sha256(dot(4)).hexdigest()
    first = said_of(home, sha)
    assert first.score("entropy") is not None
    assert standing(home)["free"][0] == "allow"
    compared = {"content_sha256": sha, "representative_sha256": sha, "method": "near/1 none", "distance": 0.0}
    texts = {"sample_key": "1" * 32, "pair_key": "2" * 32, "content_sha256": sha, "caption": "a face", "score": 0.9}
    with home.ledger() as ledger:
        ledger.append("duplicate", [compared | {"verified": True}], key="a test's")
        ledger.append("caption", [texts | {"model_digest": "m", "state": "kept"}], key="a test's")

    consent = ("grant", "add", "--giver", "Ada", "--capacity", "depicted-person", "--domain", "127.0.0.1")
    (tmp_path / "signed").write_text("yes")
    given = [*consent, "--document", str(tmp_path / "signed"), "--home", str(home.path)]
    assert CliRunner().invoke(cli, given, prog_name="custody").exit_code == 0
    (home.path / "policy.toml").write_text(look_policy("allow"))
    crawled(home, site)
    then = said_of(home, sha)
    assert (then.transforms, then.scores, then.duplicate, then.caption) == ((), (), None, None)
    assert ask(home, "SELECT DISTINCT last(value ORDER BY batch_seq) FROM score GROUP BY name") == [(None,)]
    assert ask(home, "SELECT state FROM caption WHERE sample_key = ? ORDER BY batch_seq", "1" * 32)[-1] == (
        "withdrawn",
    )
    assert ask(home, "SELECT method FROM duplicate ORDER BY batch_seq")[-1] == ("taken-back",)
    assert ask(home, "SELECT scores FROM tile WHERE content_sha256 = ?", sha) == [(None,)]

    assert look.look(Home.open(home.path)).looked[0].measured == 1
    last = said_of(home, sha)
    assert last.score("entropy") is not None
    assert last.score("entropy") != first.score("entropy")
    assert standing(home)["free"][0] == "allow"
    assert look.look(Home.open(home.path)).looked[0].measured == 0
    crawled(home, site)  # of the same pixels it stays said
    assert said_of(home, sha).scores == last.scores


def test_one_refused_page_of_several_is_enough(home: Home, site: Site) -> None:
    """Equal bytes share every no: a picture that one page refuses is not looked at for the other's sake."""
    site.answers["/"] = Answer(page() + b'<a href="/other">')
    site.answers["/other"] = Answer(page(NC))
    crawled(home, site)
    assert set(faces(home).values()) == {None}
    asked = site.requests.copy()
    assert recheck.recheck(Home.open(home.path)).imported == 0
    assert site.requests == asked  # nor is it asked for once more while that page refuses


def test_a_picture_that_is_asked_again_is_judged_by_what_is_on_record(home: Home, site: Site) -> None:
    """Its page is not asked a second time: what that said of the licence still refuses, or lets look."""
    row = '"CC-BY-NC-4.0" = { commercial = "deny"'
    site.answers["/"] = Answer(page(NC))
    crawled(home, site)
    (home.path / "policy.toml").write_text(policy(**{row: row.replace("deny", "allow")}))
    decide.decide(Home.open(home.path))
    assert standing(home)["free"] == ("defer", "not-observed")
    (home.path / "policy.toml").write_text(policy())  # changed back before anybody came to look
    crawl.crawl(Home.open(home.path), Job(again="unobserved"))
    assert site.requests["/free.png"] == 2
    assert set(faces(home).values()) == {None}
    (home.path / "policy.toml").write_text(policy(**{row: row.replace("deny", "allow")}))
    crawled(home, site, Job(again="unobserved"))
    assert (faces(home)["free"], standing(home)["free"][0]) == (1, "allow")
    assert site.requests["/"] == 1
