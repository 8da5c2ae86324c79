"""``spade pack``: folders of photos and masks to one HDF5 file."""

from .command import PackOptions as PackOptions
from .command import PackResult as PackResult
from .command import pack as pack

__all__ = ["PackOptions", "PackResult", "pack"]
