"""img2dataset over a list, in its own environment: `python crawl_img2dataset.py LIST.parquet OUT THREADS SHARD`.

Its size, quality, hash, EXIF and retries are said outright; all else is the package's default.
"""

from __future__ import annotations

import sys


def main() -> None:
    from img2dataset import download

    url_list, folder, threads, shard = sys.argv[1:]
    download(
        url_list=url_list,
        input_format="parquet",
        url_col="url",
        caption_col="caption",
        save_additional_columns=["license"],
        output_folder=folder,
        output_format="webdataset",
        image_size=256,
        resize_mode="keep_ratio",
        encode_quality=95,
        processes_count=2,
        thread_count=int(threads),
        number_sample_per_shard=int(shard),
        compute_hash="sha256",
        extract_exif=True,
        retries=0,
    )


if __name__ == "__main__":
    main()
