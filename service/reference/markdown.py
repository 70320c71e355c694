"""The reference of the API as Markdown, from its schema: what `make reference` writes and /docs shows."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from service.reference.schema import operations

Schema = Mapping[str, Any]
BOUNDS = {
    "minimum": "at least {}", "exclusiveMinimum": "over {}", "maximum": "at most {}", "exclusiveMaximum": "under {}",
    "minLength": "at least {} characters", "maxLength": "at most {} characters", "minItems": "at least {} entries",
    "maxItems": "at most {} entries", "maxProperties": "at most {} entries", "pattern": "matches `{}`",
}  # fmt: skip
MARKS = "What is marked * must be sent. `$API` is the service's address, such as `http://127.0.0.1:8000`."
LONGEST, WIDTH = 2_500, 100
"""Characters of an example, which is cut beyond that, and of a line of it."""


def reference(document: Schema) -> str:
    """A section for each operation, and one for each object that they share."""
    return "\n".join(_Writer(document).lines()) + "\n"


def anchor(name: str) -> str:
    """Of an operation's or an object's section."""
    return name.lower().replace("_", "-")


class _Writer:
    def __init__(self, document: Schema) -> None:
        self.document = document
        self.schemas: Mapping[str, Schema] = document["components"]["schemas"]

    def lines(self) -> Iterator[str]:
        info = self.document["info"]
        yield from (f"# {info['title']}: reference of the API", "", info["description"], MARKS, "")
        for tag in self.document["tags"]:
            yield from (f"## {tag['name'].capitalize()}", "", tag["description"], "")
            for path, method, operation in operations(self.document):
                if operation["tags"] == [tag["name"]]:
                    yield from self._operation(path, method, operation)
        yield from ("## Objects", "", "What requests and answers are made of.", "")
        for name in sorted(self.schemas):
            yield from self._object(name, self.schemas[name])

    def _operation(self, path: str, method: str, operation: Schema) -> Iterator[str]:
        yield from (f'### <a id="{anchor(operation["operationId"])}"></a>{operation["summary"]}', "")
        yield from (f"`{method.upper()} {path}`", "", operation.get("description", ""), "")
        if parameters := operation.get("parameters"):
            yield from ("| parameter | in | takes | | default |", "|---|---|---|---|---|")
            for each in parameters:
                name = f"`{each['name']}`" + (" *" if each.get("required") else "")
                takes, text = self._takes(each["schema"]), each.get("description", "")
                yield _row(name, each["in"], takes, text, _default(each["schema"]))
            yield ""
        for media, content in operation.get("requestBody", {}).get("content", {}).items():
            text = ". ".join(filter(None, (self._takes(content["schema"]), content["schema"].get("description"))))
            yield from (f"Body, `{media}`: {text}", "")
        yield from self._requests(path, method, operation)
        yield from ("| answer | | headers | body |", "|---|---|---|---|")
        for status, answer in operation["responses"].items():
            yield self._answer(status, answer)
        yield ""
        for status, answer in operation["responses"].items():
            for content in answer.get("content", {}).values():
                if content.get("example") is not None:
                    yield from _folded(f"Example of {status}", _cut(_json(content["example"])), "json")

    def _answer(self, status: str, answer: Schema) -> str:
        if "$ref" in answer:
            answer = self.document["components"]["responses"][answer["$ref"].rsplit("/", 1)[1]]
        content = answer.get("content", {}).items()
        kinds = [self._takes(each["schema"]) if "json" in media else f"`{media}`" for media, each in content]
        headers = ", ".join(f"`{name}`" for name in answer.get("headers", ()))
        return _row(status, answer["description"], headers, ", ".join(dict.fromkeys(kinds)))

    def _requests(self, path: str, method: str, operation: Schema) -> Iterator[str]:
        """A curl command for each example."""
        values = {p["name"]: p.get("example") for p in operation.get("parameters", ()) if p["in"] == "path"}
        url = "$API" + path.format_map({name: value if value is not None else name for name, value in values.items()})
        start = f"curl -s {url}" if method == "get" else f"curl -s -X {method.upper()} {url}"
        content = operation.get("requestBody", {}).get("content", {})
        if not content:
            yield from ("```sh", start, "```", "")
        elif "application/json" not in content:
            yield from ("```sh", f"{start} -H 'Content-Type: {next(iter(content))}' --data-binary @FILE", "```", "")
        for name, example in content.get("application/json", {}).get("examples", {}).items():
            body = _json(example["value"]).replace("'", "'\\''")
            command = f"{start} -H 'Content-Type: application/json' -d '{body}'"
            yield from _folded(f"Example {name}: {example['summary']}", command, "sh")

    def _object(self, name: str, schema: Schema) -> Iterator[str]:
        yield from (f'### <a id="{anchor(name)}"></a>{name}', "", schema.get("description", ""), "")
        if values := schema.get("enum"):
            yield from (", ".join(f"`{value}`" for value in values), "")
        if fields := schema.get("properties"):
            yield from ("| field | takes | | default |", "|---|---|---|---|")
            must = schema.get("required", ())
            for field, each in sorted(fields.items(), key=lambda field: field[0] not in must):
                name = f"`{field}`" + (" *" if field in must else "")
                yield _row(name, self._takes(each), each.get("description", ""), _default(each))
            yield ""

    def _takes(self, schema: Schema) -> str:
        """A schema in a few words, with links to the objects in it."""
        if "$ref" in schema:
            name = schema["$ref"].rsplit("/", 1)[1]
            return f"[{name}](#{anchor(name)})"
        if members := schema.get("anyOf") or schema.get("oneOf"):
            return " or ".join(dict.fromkeys(map(self._takes, members)))
        if "const" in schema or "enum" in schema:
            return ", ".join(f"`{json.dumps(value)}`" for value in schema.get("enum", [schema.get("const")]))
        words = [
            self._kind(schema),
            *(text.format(_number(schema[word])) for word, text in BOUNDS.items() if word in schema),
        ]
        return ", ".join(words)

    def _kind(self, schema: Schema) -> str:
        kind = str(schema.get("type", "anything"))
        if kind == "array" and isinstance(schema.get("items"), dict):
            return f"list of ({self._takes(schema['items'])})"
        if kind == "array":
            return "list of (" + ", ".join(map(self._takes, schema.get("prefixItems", ()))) + ")"
        if kind == "object" and isinstance(schema.get("additionalProperties"), dict):
            return f"object of ({self._takes(schema['additionalProperties'])})"
        return {"date-time": "time (RFC 3339)", "binary": "bytes"}.get(schema.get("format", ""), kind)


def _row(*cells: str) -> str:
    return "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |"


def _number(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _default(schema: Schema) -> str:
    return f"`{json.dumps(schema['default'], ensure_ascii=False)}`" if "default" in schema else ""


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else text[: text.rindex("\n", 0, LONGEST)] + "\n..."


def _json(value: Any, indent: str = "") -> str:
    """As JSON, with what is short in one line."""
    line = json.dumps(value, ensure_ascii=False)
    if len(indent + line) <= WIDTH or not isinstance(value, list | dict):
        return line
    inner = indent + "  "
    if isinstance(value, list):
        return "[\n" + ",\n".join(inner + _json(each, inner) for each in value) + f"\n{indent}]"
    rows = (f"{inner}{json.dumps(name)}: {_json(each, inner)}" for name, each in value.items())
    return "{\n" + ",\n".join(rows) + f"\n{indent}}}"


def _folded(title: str, text: str, language: str) -> Iterator[str]:
    yield from ("<details>", f"<summary>{title}</summary>", "", f"```{language}", text, "```", "", "</details>", "")
