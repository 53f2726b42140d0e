"""The JSON Schemas that are published."""

from __future__ import annotations

from typing import Any

from uplab import adapters
from uplab.export import records
from uplab.matrix import Matrix


def all_of_them() -> dict[str, dict[str, Any]]:
    """Each schema by its name."""
    of_adapters = {f"adapter-{kind}": adapters.json_schema(kind) for kind in adapters.KINDS}
    return {**of_adapters, "matrix": matrix(), "trial-record": records.json_schema()}


def matrix() -> dict[str, Any]:
    """That of a matrix file."""
    schema = Matrix.model_json_schema(by_alias=True)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
