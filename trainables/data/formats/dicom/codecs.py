"""Decompresses the frame of a DICOM object with imagecodecs. The header limits its memory."""

from __future__ import annotations

import struct
from collections.abc import Callable

import imagecodecs
import numpy as np
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

Codec = Callable[..., np.ndarray]

NATIVE = (
    ImplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
)
"""Transfer syntaxes whose pixels are not compressed."""
_JPEG_2000 = (JPEG2000Lossless, JPEG2000, HTJ2KLossless, HTJ2KLosslessRPCL, HTJ2K)
_CODECS: dict[UID, Codec] = {
    JPEGBaseline8Bit: imagecodecs.jpeg8_decode,
    JPEGExtended12Bit: imagecodecs.jpeg8_decode,  # 8 and 12 bits
    JPEGLossless: imagecodecs.jpeg8_decode,  # 2 to 16 bits
    JPEGLosslessSV1: imagecodecs.jpeg8_decode,
    JPEGLSLossless: imagecodecs.jpegls_decode,
    JPEGLSNearLossless: imagecodecs.jpegls_decode,
    # OpenJPEG, also for HTJ2K: imagecodecs ignores the errors of OpenJPH, and returns half a picture.
    **dict.fromkeys(_JPEG_2000, imagecodecs.jpeg2k_decode),
}
_END_OF_IMAGE = b"\xff\xd9"
_FILLING = b"\0\xff"
"""Bytes that writers append to reach an even length."""
_RUN_LENGTH_HEADER = struct.Struct("<16I")
_SLACK = 1024
"""Bytes that a writer may append to a segment of run lengths."""
_SIZE_OF_JPEG_2000 = b"\xff\x4f\xff\x51"


def decompress(frame: bytes, syntax: UID, *, rows: int, columns: int, bits: int) -> np.ndarray:
    """Returns the values of a compressed frame, integers [H, W] as the codec stores them.

    `rows` and `columns` are H and W in the header; `bits` are the bits allocated per pixel.

    Raises:
        ValueError: the compression is unknown, or the bytes are cut, damaged or of another size.
    """
    if syntax == RLELossless:
        return _run_lengths(frame, rows=rows, columns=columns, num_bytes=bits // 8)
    if syntax not in _CODECS:
        raise ValueError(f"its pixels are compressed as {syntax.name}, which cannot be decoded")
    if not frame.rstrip(_FILLING).endswith(_END_OF_IMAGE):
        raise ValueError("its compressed pixels are cut: they have no end")
    is_jpeg_2000 = syntax in _JPEG_2000
    dtypes = [_dtype_of_jpeg_2000(frame, rows=rows, columns=columns)] if is_jpeg_2000 else ["u1", "u2"]
    return _decoded(_CODECS[syntax], frame, (rows, columns), dtypes)


def _run_lengths(frame: bytes, *, rows: int, columns: int, num_bytes: int) -> np.ndarray:
    """Decodes run lengths (PS3.5 G): one segment for each byte of the values, the high byte first.

    `imagecodecs.dicomrle_decode` would fill a segment that is too short with zeros.
    """
    size = rows * columns
    if len(frame) < _RUN_LENGTH_HEADER.size:
        raise ValueError("its compressed pixels are cut")
    num_segments, *starts = _RUN_LENGTH_HEADER.unpack_from(frame)
    if num_segments != num_bytes:
        raise ValueError(f"its header says {num_bytes} bytes per pixel, but its pixels have {num_segments}")
    values = np.zeros((size, num_bytes), dtype=np.uint8)
    ends = [*starts[1:num_segments], len(frame)]
    for i, (start, end) in enumerate(zip(starts[:num_segments], ends, strict=True)):
        try:
            segment = imagecodecs.packbits_decode(frame[start:end], out=size + _SLACK)
        except Exception as error:
            raise ValueError(f"its pixels cannot be decompressed ({error})") from error
        if len(segment) < size:
            raise ValueError(
                f"its compressed pixels are cut: {len(segment):,} of {size:,} bytes in a segment"
            )
        values[:, num_bytes - 1 - i] = np.frombuffer(segment, np.uint8, count=size)
    return values.view(f"<u{num_bytes}").reshape(rows, columns)


def _decoded(codec: Codec, frame: bytes, shape: tuple[int, int], dtypes: list[str]) -> np.ndarray:
    """Decodes into an array of the size in the header, so that a wrong size is refused before decoding."""
    reasons: list[str] = []
    for dtype in dtypes:
        try:
            return codec(frame, out=np.zeros(shape, dtype))
        except Exception as error:  # each codec has its own error
            reasons.append(str(error))
            if "out.dtype" not in str(error):
                break
    raise ValueError(f"its pixels cannot be decompressed ({reasons[-1]})")


def _dtype_of_jpeg_2000(frame: bytes, *, rows: int, columns: int) -> str:
    """Returns the type of the values in a JPEG 2000 frame, signed or unsigned (ISO 15444-1, A.5.1).

    Raises:
        ValueError: the frame names another size than the header, or has more than 16 bits.
    """
    start = frame.find(_SIZE_OF_JPEG_2000)
    if start < 0 or len(frame) < start + 43:
        raise ValueError("its pixels are no JPEG 2000 image")
    right, bottom, left, top = struct.unpack(">4I", frame[start + 8 : start + 24])
    if (right - left, bottom - top) != (columns, rows):
        raise ValueError(
            f"its header says {columns} × {rows}, but its pixels are {right - left} × {bottom - top}"
        )
    is_signed, bits = frame[start + 42] >> 7, (frame[start + 42] & 0x7F) + 1
    if bits > 16:
        raise ValueError(f"its compressed pixels have {bits} bits; at most 16 can be read")
    return f"{'i' if is_signed else 'u'}{1 if bits <= 8 else 2}"
