"""How much memory a picture is going to take to be decoded and shaped, by what its header says.

Measured with `curation.images.shape` on 24 megapixels of each kind, as address space; a picture may lie, and then meets
its worker's limit.
"""

from __future__ import annotations

from curation.images import Header

# Bytes a pixel. A JPEG is scaled down as it is decoded, but a progressive one's coefficients are kept until its end:
# 2.9 at 4:2:0, 5.8 at 4:4:4, 7.6 in CMYK. Of an animated GIF or WebP the first frame is decoded.
_BYTES = {"image/webp": 16, "image/avif": 9, "image/gif": 6}
_PROGRESSIVE_JPEG_BYTES = 8
# By colour type (PNG, third edition, 11.2.1): grey, RGB, palette, grey and RGB with alpha.
_PNG_BYTES = {0: 6, 2: 5, 3: 6, 4: 13, 6: 9}
_DEEP_GREY_BYTES = 15
_COLOUR_KEY_BYTES = 8  # more, where a colour or entries of a palette are transparent


def bytes_wanted(body: bytes, header: Header) -> int:
    """The memory that a picture takes at most at a time, its own bytes included."""
    return len(body) + header.width * header.height * _bytes_a_pixel(body, header.media_type)


def webp_bytes_wanted(body: bytes) -> int:
    """The same of a WebP by its own header, since libwebp makes room for its canvas when it is opened; 0 of others.

    WebP Container Specification (RFC 9649), 2.7: VP8X's canvas, else the size in VP8L's or VP8's own header.
    """
    kind = body[12:16] if body[:4] == b"RIFF" and body[8:12] == b"WEBP" else b""
    if kind == b"VP8X":
        width, height = (1 + int.from_bytes(body[at : at + 3], "little") for at in (24, 27))
    elif kind == b"VP8L":
        bits = int.from_bytes(body[21:25], "little")
        width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    elif kind == b"VP8 ":
        width, height = (int.from_bytes(body[at : at + 2], "little") & 0x3FFF for at in (26, 28))
    else:
        return 0
    return len(body) + width * height * _BYTES["image/webp"]


def _bytes_a_pixel(body: bytes, media_type: str) -> int:
    if media_type == "image/jpeg":
        return _PROGRESSIVE_JPEG_BYTES if _is_progressive(body) else 0
    if media_type != "image/png":
        return _BYTES[media_type]
    depth, colour = body[24], body[25]
    size = _DEEP_GREY_BYTES if (depth, colour) == (16, 0) else _PNG_BYTES.get(colour, _DEEP_GREY_BYTES)
    has_key = colour in (0, 2, 3) and body.find(b"tRNS", 33, body.find(b"IDAT") + 1) > 0
    return size + (_COLOUR_KEY_BYTES if has_key else 0)


def _is_progressive(body: bytes) -> bool:
    """Whether the first frame of a JPEG comes in scans that refine each other (SOF2 and its like)."""
    position = 2
    while position + 4 <= len(body) and body[position] == 0xFF:
        marker = body[position + 1]
        if marker == 0xFF:  # a fill byte
            position += 1
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return marker not in (0xC0, 0xC1)
        elif marker == 0xDA:
            return False
        else:
            position += 2 + int.from_bytes(body[position + 2 : position + 4], "big")
    return True  # it is told otherwise where it is known to be none
