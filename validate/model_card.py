"""The model card of a bundle: Hugging Face's ``README.md``, its metadata and metrics (``model-index``) taken from the stored results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from segc.core.files import write_text
from segc.validate.report import gather
from segc.validate.templating import render

CARD = "README.md"
_METRICS = {"mIoU": "mean_iou", "mAcc": "mean_accuracy", "aAcc": "accuracy"}


def write_card(bundle: Path | str, output: Path | None = None, license_name: str = "unknown") -> Path:
    """Write the model card of a bundle; the path of the file (default: ``README.md`` in the bundle).

    Args:
        license_name: identifier of the weights' licence as the Hub writes it, such as ``apache-2.0``.

    Raises:
        UserError: the bundle has no validation result of its graphs.
    """
    bundle = Path(bundle)
    data = gather(bundle)
    path = output or bundle / CARD
    write_text(path, render("card.md.j2", **data, front_matter=yaml.safe_dump(metadata(data, license_name), sort_keys=False).strip()))
    return path


def metadata(data: dict[str, Any], license_name: str) -> dict[str, Any]:
    """The YAML head of a card: of what ``segc.validate.report.gather`` tells, the metrics of every measured graph in percent."""
    return {
        "license": license_name,
        "library_name": "onnx",
        "pipeline_tag": "image-segmentation",
        "tags": ["semantic-segmentation", "onnx", *sorted({line["precision"] for line in data["targets"]} - {"fp32"})],
        "datasets": [data["compressed"]["dataset"]["name"]],
        "metrics": list(_METRICS.values()),
        "model-index": [{"name": data["name"], "results": [_result(line, data["compressed"]["dataset"]) for line in data["targets"]]}],
    }


def _result(line: dict[str, Any], dataset: dict[str, Any]) -> dict[str, Any]:
    values = [{"type": kind, "value": round(line[name], 2), "name": f"{name} (%)"} for name, kind in _METRICS.items()]
    return {
        "task": {"type": "image-segmentation", "name": f"Semantic segmentation, {line['precision']} on {line['backend']}"},
        "dataset": {"type": dataset["name"], "name": dataset["name"], "split": dataset["split"], "args": {"images": line["n"]}},
        "metrics": values,
    }
