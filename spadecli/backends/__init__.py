"""Backends: one interface to run weights, ONNX files and TensorRT engines."""

from .base import Backend as Backend
from .base import open_backend as open_backend

__all__ = ["Backend", "open_backend"]
