"""The pages that ``segc`` writes: one jinja2 environment, numbers as text, the folder of templates."""

from __future__ import annotations

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape


def render(template: str, **values: Any) -> str:
    """A template of ``validate/templates`` filled in; a value it names and does not get is an error."""
    templates = Environment(
        loader=PackageLoader("segc.validate", "templates"),
        autoescape=select_autoescape(["html.j2", "svg.j2"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters.update(number=number, signed=signed, mib=lambda size: f"{size / 2**20:.2f}", millions=millions)
    return templates.get_template(template).render(**values)


def number(value: float | None, digits: int = 2) -> str:
    """A number, or a dash for none."""
    return "–" if value is None else f"{value:.{digits}f}"


def signed(value: float | None, digits: int = 2) -> str:
    """A number with its sign, or a dash for none."""
    # Adding 0.0 turns a rounded -0.0 into 0.0.
    return "–" if value is None else f"{round(value, digits) + 0.0:+.{digits}f}"


def millions(value: float | None, unit: float = 1e6) -> str:
    """A count in millions (or another unit), or a dash for none."""
    return "–" if value is None else f"{value / unit:.2f}"
