"""Archives for tests and benchmarks: WARC records, and WAT records as Common Crawl's extractor makes them."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
from collections.abc import Mapping

from fastwarc.stream_io import ZstdWriter
from selectolax.lexbor import LexborHTMLParser, LexborNode

NOW = "2026-11-02T03:04:05Z"


def record(kind: str, url: str, block: bytes, *, length: int | None = None, **fields: str) -> bytes:
    """One record; `fields` with _ for -."""
    named = {"WARC-Type": kind, "WARC-Target-URI": url, "WARC-Date": NOW}
    named |= {name.replace("_", "-"): value for name, value in fields.items()}
    named["Content-Length"] = str(len(block) if length is None else length)
    head = "".join(f"{name}: {value}\r\n" for name, value in named.items() if value)
    return b"WARC/1.0\r\n" + head.encode() + b"\r\n" + block + b"\r\n\r\n"


def response(url: str, body: bytes, head: str = "Content-Type: text/html", status: str = "200 OK") -> bytes:
    """A response record."""
    return record("response", url, http(body, head, status))


def http(body: bytes, head: str = "Content-Type: text/html", status: str = "200 OK") -> bytes:
    """An HTTP response; `head`: its header lines."""
    lines = "".join(f"{line}\r\n" for line in head.split("\n") if line)
    return f"HTTP/1.1 {status}\r\n{lines}\r\n".encode("latin-1") + body


def page(number: int) -> bytes:
    """A response with a digest, to be told apart by its number."""
    block = http(b"<img src=%d.png alt=pear>" % number)
    return record("response", f"https://e.org/{number}", block, WARC_Block_Digest="sha1:" + sha1(block))


def sha1(data: bytes) -> str:
    """In hex."""
    return hashlib.sha1(data, usedforsecurity=False).hexdigest()


def compressed(*records: bytes) -> bytes:
    """Each record a gzip member of its own."""
    return b"".join(gzip.compress(one, mtime=0) for one in records)


def as_zstd(data: bytes) -> bytes:
    """One zstd frame."""
    out = io.BytesIO()
    writer = ZstdWriter(out)
    while data:
        data = data[writer.write(data) :]  # at most 8 MiB a call
    writer.close()
    return out.getvalue()


def wat_record(
    url: str,
    html: object,
    *,
    headers: Mapping[str, object] | None = None,
    status: str = "200",
    about: Mapping[str, object] | None = None,
) -> bytes:
    """A WAT record; `html`: the HTML-Metadata, None for a response that is no HTML."""
    answer: dict[str, object] = {
        "Response-Message": {"Status": status, "Reason": "OK", "Version": "HTTP/1.1"},
        "Headers": headers if headers is not None else {"Content-Type": "text/html; charset=utf-8", "Server": "nginx"},
        "Headers-Length": "300",
        "Entity-Length": "20000",
    }
    if html is not None:
        answer["HTML-Metadata"] = html
    envelope = {
        "Payload-Metadata": {
            "Actual-Content-Type": "application/http; msgtype=response",
            "HTTP-Response-Metadata": answer,
        },
        "Format": "WARC/1.0",
        "WARC-Header-Length": "600",
        "WARC-Header-Metadata": {
            "WARC-Type": "response",
            "WARC-Date": "2026-01-02T03:04:05Z",
            "Content-Type": "application/http; msgtype=response",
            "WARC-Target-URI": url,
            "WARC-IP-Address": "208.80.154.224",
            **(about or {}),
        },
    }
    block = json.dumps({"Container": {"Compressed": True, "Offset": "80610731"}, "Envelope": envelope}).encode()
    return record("metadata", url, block, Content_Type="application/json")


def described(html: bytes) -> dict[str, object]:
    """The HTML-Metadata that ia-web-commons (ExtractingParseObserver) makes of a page."""
    tree = LexborHTMLParser(html)
    head: dict[str, object] = {}
    links: list[dict[str, str]] = []
    for node in tree.css("title,base,meta,link,script,a,area,img,form,iframe,source,video"):
        said = {name: value or "" for name, value in node.attributes.items()}
        match node.tag:
            case "title":
                head.setdefault("Title", node.text().strip())
            case "base" if "href" in said:
                head["Base"] = said["href"]
            case "meta":
                _append(head, "Metas", _only(said, "name", "rel", "content", "http-equiv", "property"))
            case "link" if "href" in said:
                _append(head, "Link", _link(node, said, "href", "rel", "type"))
            case "script" if "src" in said:
                _append(head, "Scripts", _link(node, said, "src", "type"))
            case "a" if "href" in said:
                link = _link(node, said, "href", "target", "alt", "title", "rel", "hreflang", "type")
                links.append(link | ({"text": text} if (text := " ".join(node.text().split())[:128]) else {}))
            case "area" if "href" in said:
                links.append(_link(node, said, "href", "rel"))
            case "img" if "src" in said:
                links.append(_link(node, said, "src", "alt", "title"))
            case "form" if "action" in said:
                links.append(_link(node, said, "action", "target", "method"))
            case "iframe" | "source" | "video" if "src" in said:
                links.append(_link(node, said, "src"))
    return {"Head": head, "Links": links} if links else {"Head": head}


def _append(head: dict[str, object], name: str, value: dict[str, str]) -> None:
    if value:
        known = head.setdefault(name, [])
        assert isinstance(known, list)
        known.append(value)


def _only(said: Mapping[str, str], *names: str) -> dict[str, str]:
    return {name: said[name] for name in names if name in said}


def _link(node: LexborNode, said: Mapping[str, str], address: str, *names: str) -> dict[str, str]:
    return {"path": f"{(node.tag or '').upper()}@/{address}", "url": said[address], **_only(said, *names)}
