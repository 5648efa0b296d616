"""A folder as img2dataset leaves it (format webdataset, all re-encoding off), made by hand."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq


def downloaded(folder: Path, pictures: Mapping[str, bytes], licence: str | None = None) -> Path:
    """One shard with these pictures by their URLs; each has a caption, and a licence if one is given."""
    folder.mkdir()
    rows: list[dict[str, object]] = []
    with tarfile.open(folder / "00000.tar", "w") as tar:
        for number, (url, body) in enumerate(pictures.items()):
            row: dict[str, object] = {
                "url": url,
                "caption": f"a red apple, number {number}",
                "key": f"00000{number:04d}",
                "status": "success",
                "error_message": None,
                "width": 96,
                "height": 96,
                "original_width": 96,
                "original_height": 96,
                "exif": "{}",
                "sha256": hashlib.sha256(body).hexdigest(),
            }
            row |= {"license": licence} if licence is not None else {}
            rows.append(row)
            members = {"png": body, "json": json.dumps(row).encode(), "txt": str(row["caption"]).encode()}
            for ending, data in members.items():
                member = tarfile.TarInfo(f"{row['key']}.{ending}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    pq.write_table(pa.Table.from_pylist(rows), folder / "00000.parquet")
    statistics = {
        "count": len(rows),
        "successes": len(rows),
        "failed_to_download": 0,
        "failed_to_resize": 0,
        "duration": 1.0,
        "status_dict": {"success": len(rows)},
    }
    (folder / "00000_stats.json").write_text(json.dumps(statistics))
    return folder
