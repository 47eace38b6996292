"""The pixel types that OME-Zarr viewers read, and their sizes. Imports nothing: the camera process needs it."""

# Frame indexes have 64 bits, and are signed in numpy.
MAX_FRAMES = 2**62

ITEM_BYTES = {
    "uint8": 1,
    "uint16": 2,
    "uint32": 4,
    "uint64": 8,
    "int8": 1,
    "int16": 2,
    "int32": 4,
    "int64": 8,
    "float16": 2,
    "float32": 4,
    "float64": 8,
}
