"""The fields of an adapter.yml, from the schemas that it is held against."""

from __future__ import annotations

import json
from typing import Any

from tools.reference.markdown import code, table, words
from uplab import adapters

_HEAD = """# Adapters

The fields of an `adapter.yml`, by kind; what is not named here is refused. How they work together
is in [add your tracer, server or load](../how-to/add-your-tracer-server-load.md). The same as JSON
Schema, for editors: [server](schemas/adapter-server.schema.json),
[tracer](schemas/adapter-tracer.schema.json), [load](schemas/adapter-load.schema.json).
"""


def page() -> str:
    """The page: a section for each kind, and one for each part that its fields consist of."""
    parts, seen = [_HEAD], set[str]()
    for kind in adapters.KINDS:
        schema = adapters.json_schema(kind)
        parts.append(_section(f"{kind.capitalize()}: `{kind}s/NAME/adapter.yml`", schema))
        for name, part in schema.get("$defs", {}).items():
            if name not in seen and "properties" in part:
                seen.add(name)
                parts.append(_section(name, part))
    return "\n".join(parts)


def _section(title: str, schema: dict[str, Any]) -> str:
    required = schema.get("required", [])
    rows = [
        (code(name), kind(field), _default(field, name in required))
        for name, field in schema["properties"].items()
    ]
    said = words(schema.get("description", "")).strip()
    return f"## {title}\n\n{said}\n\n{table(('field', 'type', 'default'), rows)}"


def _default(field: dict[str, Any], required: bool) -> str:
    if required:
        return "required"
    value = field.get("default")
    return "none" if value is None else code(json.dumps(value))


def kind(field: dict[str, Any]) -> str:
    """A type in words: `list of text`, `Site or null`."""
    if "$ref" in field:
        name = field["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    for several in ("anyOf", "oneOf"):
        if several in field:
            found = dict.fromkeys(kind(one) for one in field[several])
            return " or ".join(name for name in found if name != "null")
    if "enum" in field:
        return ", ".join(code(str(value)) for value in field["enum"])
    if "const" in field:
        return code(str(field["const"]))
    return _plain(field)


def _plain(field: dict[str, Any]) -> str:
    names = {"string": "text", "integer": "whole number", "boolean": "true or false"}
    name = field.get("type", "anything")
    if name == "array":
        items = field.get("items", {}) or (field.get("prefixItems") or [{}])[0]
        return f"list of {kind(items)}"
    if name == "object":
        return f"object of {kind(field.get('additionalProperties') or {})}"
    return names.get(str(name), str(name))
