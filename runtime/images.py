"""Reading and writing image files; the readers lie in ``segc.core.images`` because the datasets need them too."""

from segc.core.images import SUFFIXES, Image, read_image, write_image

__all__ = ["SUFFIXES", "Image", "read_image", "write_image"]
