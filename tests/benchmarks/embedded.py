"""Metadata in an image's own bytes: how many files a second one core reads, and what Pillow does with the same."""

from __future__ import annotations

import io
import time
import warnings
from collections.abc import Callable

import numpy as np
from PIL import Image

from policy.signals.embedded import read_embedded

SECONDS = 2.0
PLUS = "http://ns.useplus.org/ldf/xmp/1.0/"
PACKET = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">
<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" xmlns:plus="{0}"
xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:cc="http://creativecommons.org/ns#"><plus:DataMining>{1}
</plus:DataMining><cc:license rdf:resource="https://creativecommons.org/licenses/by/4.0/"/><dc:creator><rdf:Seq>
<rdf:li>Jane</rdf:li></rdf:Seq></dc:creator></rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="w"?>"""
PROHIBITED = "http://ns.useplus.org/ldf/vocab/DMI-PROHIBITED"


def run() -> list[tuple[str, str]]:
    """Files per second of CPU, one core, and whether a spoofed namespace is told from the right one."""
    plain, small = _jpeg(), _jpeg(PACKET.format(PLUS, PROHIBITED))
    long = _jpeg(PACKET.format(PLUS, PROHIBITED).replace("Jane", "Jane" * 15_000))
    spoofed = _jpeg(PACKET.format("http://evil.example/", PROHIBITED))
    rows = []
    for what, body in (("no metadata", plain), ("a small XMP packet", small), ("an XMP packet of 60 KB", long)):
        name = f"JPEG of {len(body) // 1000} KB with {what}"
        rows += [
            (f"{name}: read_embedded", _rate(lambda body=body: read_embedded(body))),  # type: ignore[misc]
            (f"{name}: Pillow open + getxmp", _rate(lambda body=body: _pillow(body))),  # type: ignore[misc]
        ]
    ours = any(field.name == "plus:DataMining" for field in read_embedded(spoofed).fields)
    return [
        *rows,
        ("DataMining in a spoofed namespace under the prefix plus: read_embedded", _taken(ours)),
        ("DataMining in a spoofed namespace under the prefix plus: Pillow", _taken("DMI-" in str(_pillow(spoofed)))),
    ]


def _jpeg(xmp: str = "") -> bytes:
    """A photograph-like JPEG of about 200 KB."""
    noise = np.random.default_rng(7).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    picture = Image.fromarray(noise).resize((1280, 960), Image.Resampling.BICUBIC)
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=88, **({"xmp": xmp.encode()} if xmp else {}))
    return out.getvalue().ljust(200_000, b"\0")


def _pillow(body: bytes) -> object:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Image.open(io.BytesIO(body)).getxmp()


def _taken(taken: bool) -> str:
    return "taken for the PLUS property" if taken else "not taken for the PLUS property"


def _rate(work: Callable[[], object]) -> str:
    done, began = 0, time.process_time()
    while time.process_time() - began < SECONDS:
        for _ in range(100):
            work()
        done += 100
    return f"{done / (time.process_time() - began):,.0f}/s"
