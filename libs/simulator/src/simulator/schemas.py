"""Answers that match a schema, and the schemas that a provider refuses to be asked for.

An instance is the plainest there is: every property, the least of every number, one item. A pattern is not followed.
"""

from typing import Any

from simulator.errors import CallRefused

_TEXTS = {
    "date-time": "2026-01-31T12:00:00Z",
    "time": "12:00:00Z",
    "date": "2026-01-31",
    "duration": "P1D",
    "email": "somebody@example.com",
    "hostname": "example.com",
    "uri": "https://example.com",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uuid": "00000000-0000-4000-8000-000000000000",
}
_BEYOND_ANTHROPIC = frozenset(
    {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "minLength", "maxLength", "maxItems"}
)
_BEYOND_STRICT = frozenset({"minLength", "maxLength", "default", "examples", "allOf", "oneOf", "not"})


def instance(schema: dict[str, Any], root: dict[str, Any] | None = None) -> Any:
    """A value that matches, where the schema does not ask for much."""
    root = schema if root is None else root
    if "$ref" in schema:
        return instance(root["$defs"][schema["$ref"].rpartition("/")[2]], root)
    for keyword, first in (("const", False), ("enum", True)):
        if keyword in schema:
            return schema[keyword][0] if first else schema[keyword]
    if "anyOf" in schema:
        return instance(schema["anyOf"][0], root)
    named = schema.get("type")
    return _of_type(named[0] if isinstance(named, list) else named, schema, root)


def _of_type(named: str | None, schema: dict[str, Any], root: dict[str, Any]) -> Any:
    if named == "object":
        return {name: instance(part, root) for name, part in schema.get("properties", {}).items()}
    if named == "array":
        return [instance(schema["items"], root)] * max(1, schema.get("minItems", 0)) if "items" in schema else []
    if named == "string":
        return _TEXTS.get(schema.get("format", ""), "text".ljust(schema.get("minLength", 0), "."))
    if named in ("integer", "number"):
        return schema.get("minimum", 1)
    return True if named == "boolean" else None


def checked_by_anthropic(schema: object) -> dict[str, Any]:
    """The schema, as Anthropic takes it. Raises `CallRefused`."""
    return _checked(schema, "output_config.format.schema", _BEYOND_ANTHROPIC, all_required=False)


def checked_by_openai(form: dict[str, Any], where: str) -> dict[str, Any]:
    """The schema, as OpenAI takes it; in strict mode it is a narrow one. Raises `CallRefused`."""
    if not form.get("name"):
        raise CallRefused("bad_request", f"Missing required parameter: '{where}.name'.")
    if not form.get("strict"):
        schema: dict[str, Any] = form["schema"]
        return schema
    return _checked(form["schema"], f"{where}.schema", _BEYOND_STRICT, all_required=True)


def _checked(schema: object, where: str, beyond: frozenset[str], *, all_required: bool) -> dict[str, Any]:
    if not isinstance(schema, dict):
        raise CallRefused("bad_request", f"{where}: a schema is an object")
    if unknown := beyond & schema.keys():
        raise CallRefused("bad_request", f"{where}: {min(unknown)!r} is not supported")
    if schema.get("type") == "object" and schema.get("additionalProperties") is not False:
        raise CallRefused("bad_request", f"{where}: 'additionalProperties' must be explicitly set to false")
    properties = schema.get("properties", {})
    if all_required and set(schema.get("required", ())) != set(properties):
        raise CallRefused("bad_request", f"{where}: 'required' must name every property")
    parts = [*properties.values(), *schema.get("$defs", {}).values(), *schema.get("anyOf", ())]
    for part in [*parts, *([schema["items"]] if "items" in schema else [])]:
        _checked(part, where, beyond, all_required=all_required)
    return schema
