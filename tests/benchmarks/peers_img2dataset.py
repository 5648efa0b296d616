"""img2dataset over a list of all cases, in its own environment: `python peers_img2dataset.py IN.json OUT.json`.

IN: [{"image_url"}…]. OUT: for each, the status and the error message of its row of metadata; the version;
in how many of the images that it kept the words of a reservation still stand. All is
left at the package's defaults (its list of disallowed directives too) but that it is told our user agent token.
"""

from __future__ import annotations

import importlib.metadata
import json
import sys
import tempfile
from pathlib import Path

TOKEN = "custody"


def main() -> None:
    import pandas
    from img2dataset import download

    urls = [case["image_url"] for case in json.loads(Path(sys.argv[1]).read_bytes())]
    with tempfile.TemporaryDirectory() as folder:
        listed, images = Path(folder, "urls.parquet"), Path(folder, "images")
        pandas.DataFrame({"url": urls, "number": range(len(urls))}).to_parquet(listed)
        download(
            url_list=str(listed),
            input_format="parquet",
            url_col="url",
            save_additional_columns=["number"],
            output_folder=str(images),
            thread_count=16,
            user_agent_token=TOKEN,
        )
        rows = pandas.concat(map(pandas.read_parquet, sorted(images.glob("*.parquet")))).sort_values("number")
        kept = [path.read_bytes() for path in images.rglob("*.jpg")]
    answers = [
        {"status": status, "error": error or ""}
        for status, error in zip(rows["status"], rows["error_message"], strict=True)
    ]
    assert len(answers) == len(urls)
    assert len(kept) == sum(answer["status"] == "success" for answer in answers)
    marked = sum(any(word in body for word in (b"DMI-", b"tdm:reservation", b"c2pa")) for body in kept)
    said = {"version": importlib.metadata.version("img2dataset"), "answers": answers, "still_marked": marked}
    Path(sys.argv[2]).write_text(json.dumps(said), encoding="utf-8")


if __name__ == "__main__":
    main()
