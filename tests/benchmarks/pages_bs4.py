"""What read_page finds, found with BeautifulSoup on lxml: a script for .peers-venv, which knows nothing of Custody.

`python pages_bs4.py FOLDER`: reads FOLDER/*.html twice and prints {"seconds": best CPU, "images": n, "links": n}.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from urllib.parse import urldefrag, urljoin

from bs4 import BeautifulSoup

LAZY = ("data-src", "data-original", "data-lazy-src", "data-lazy", "data-original-src", "data-image", "data-url")
LAZY_SETS = ("data-srcset", "data-lazy-srcset", "data-original-set")
BASE = "https://www.site.example/docs/page.html"


def main() -> None:
    """Time the extraction of every page."""
    pages = [path.read_bytes() for path in sorted(Path(sys.argv[1]).glob("*.html"))]
    best, images, links = float("inf"), 0, 0
    for _ in range(2):
        began = time.process_time()
        found = [extract(page) for page in pages]
        best = min(best, time.process_time() - began)
        images, links = sum(len(f["images"]) for f in found), sum(len(f["links"]) for f in found)
    sys.stdout.write(json.dumps({"seconds": best, "images": images, "links": links}))


def extract(html):
    """Images with texts and addresses, links, metas, licence claims, title."""
    soup = BeautifulSoup(html, "lxml")
    base = BASE
    if (node := soup.find("base", href=True)) is not None:
        base = urljoin(base, node["href"])
    images = {}
    for node in soup.find_all("img"):
        found = addresses(node)
        if (picture := node.find_parent("picture")) is not None:
            for source in picture.find_all("source"):
                found += addresses(source)
        urls = list(dict.fromkeys(u for a in found if (u := absolute(base, a))))
        if not urls:
            continue
        text = " ".join(node.get("alt", "").split())
        figure = node.find_parent("figure")
        if not text and figure is not None and (caption := figure.find("figcaption")) is not None:
            text = " ".join(caption.get_text().split())
        text = text or " ".join(node.get("title", "").split())
        licences = [a["href"] for a in figure.find_all("a", rel="license", href=True)] if figure is not None else []
        images.setdefault((urls[0], text), (urls, licences))
    links = dict.fromkeys(u for a in soup.find_all(["a", "area"], href=True) if (u := absolute(base, a["href"])))
    metas = [
        (name.lower(), node["content"])
        for node in soup.find_all("meta", content=True)
        if (name := node.get("name") or node.get("property") or node.get("http-equiv"))
    ]
    licences = [absolute(base, n["href"]) for n in soup.find_all(["a", "link"], rel="license", href=True)]
    for script in soup.find_all("script", type="application/ld+json"):
        try:
            licences.append(json.loads(script.get_text()))
        except ValueError:
            continue
    items = [node.attrs for node in soup.select("[itemscope],[typeof],[about],[itemprop],[property],[rel]")]
    title = soup.title.get_text() if soup.title is not None else None
    return {"images": images, "links": links, "metas": metas, "licences": licences, "items": items, "title": title}


def addresses(node):
    """Lazy attributes, src, srcset."""
    found = [node[name] for name in LAZY if node.get(name)]
    for name in (*LAZY_SETS, "srcset"):
        found += [part.split()[0] for part in node.get(name, "").split(", ") if part.split()]
    if node.get("src"):
        found.insert(len([name for name in LAZY if node.get(name)]), node["src"])
    return found


def absolute(base, address):
    """An http(s) URL without its fragment, or None."""
    try:
        url = urldefrag(urljoin(base, address.strip())).url
    except ValueError:
        return None
    return url if url.startswith(("http://", "https://")) else None


if __name__ == "__main__":
    main()
