"""``spade styles``: the style codes of photos, in one file."""

from .command import StylesOptions as StylesOptions
from .command import StylesResult as StylesResult
from .command import styles as styles

__all__ = ["StylesOptions", "StylesResult", "styles"]
