"""datadiligence asked about each case, in its own environment: `python peers_datadiligence.py IN.json OUT.json`.

IN: [{"image_url", "page_url", "path"}…], the path a copy of the image. OUT: for each, what every way of asking that
the package offers answered: true (allowed), false, or the exception in words; and the package's version.
"""

from __future__ import annotations

import importlib.metadata
import json
import logging
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

TOKEN = "custody"


def main() -> None:
    import datadiligence
    import requests

    logging.disable()  # it logs an error for each image without a manifest
    datadiligence.load_defaults(user_agent=TOKEN)
    http = datadiligence.HttpEvaluator(user_agent=TOKEN)

    def ask(case: Mapping[str, str]) -> dict[str, bool | str]:
        image, page = case["image_url"], case["page_url"]
        agent = {"User-Agent": TOKEN}
        ways: dict[str, Callable[[], object]] = {
            "is_allowed(urls=[image])": lambda: all(datadiligence.is_allowed(urls=[image])),
            "is_allowed(url=image)": lambda: datadiligence.is_allowed(url=image),
            "is_allowed(url=page)": lambda: datadiligence.is_allowed(url=page),
            "is_allowed(response=…, body=…)": lambda: _of_response(requests.get(image, headers=agent, timeout=10)),
            "HttpEvaluator.is_allowed(headers=…)": lambda: http.is_allowed(
                headers=requests.get(image, headers=agent, timeout=10).headers
            ),
            "is_allowed(path=…)": lambda: datadiligence.is_allowed(path=case["path"]),
        }
        return {name: _answer(way) for name, way in ways.items()}

    def _of_response(response: requests.Response) -> object:
        return datadiligence.is_allowed(response=response, body=response.content)

    asked = [ask(case) for case in json.loads(Path(sys.argv[1]).read_bytes())]
    version = importlib.metadata.version("datadiligence")
    Path(sys.argv[2]).write_text(json.dumps({"version": version, "answers": asked}), encoding="utf-8")


def _answer(way: Callable[[], object]) -> bool | str:
    try:
        return bool(way())
    except Exception as error:  # whatever it raises is its answer
        return f"{type(error).__name__}: {error}"[:300]


if __name__ == "__main__":
    main()
