"""``spade doctor``: what this machine can run."""

from .command import DoctorOptions as DoctorOptions
from .command import doctor as doctor

__all__ = ["DoctorOptions", "doctor"]
