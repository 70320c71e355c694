"""Whether a client written for the stored schema of the API can use the present one.

    python -m tests.compatibility            what has changed, and what of it breaks clients
    python -m tests.compatibility --accept   store the present schema, once only additions are left

A request that was valid has to stay valid, and mean the same by the same name; an answer may gain fields, values of
enumerations and errors, but keeps its fields and their types. Descriptions and examples may change freely, and are not
stored.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from service.app import create_app
from service.settings import Settings

STORED = Path(__file__).parent / "service" / "openapi.json"
METHODS = ("get", "put", "post", "delete", "patch", "head")
TOLD = ("description", "title", "summary")
Schema = Any
Document = Mapping[str, Any]


def present() -> dict[str, Any]:
    """The schema of this version, as clients get it."""
    schema: dict[str, Any] = json.loads(json.dumps(create_app(Settings()).openapi()))
    return schema


def bare(schema: Any) -> Any:
    """What clients rely on: the schema without what is for people."""
    if isinstance(schema, list):
        return [bare(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    # A field of any of these names is described by an object, in `properties`.
    told = {name: value for name, value in schema.items() if name not in TOLD or isinstance(value, dict)}
    return {name: bare(value) for name, value in told.items() if name not in ("example", "examples")}


def breaks(old: Document, new: Document) -> list[str]:
    """What a client of `old` would trip over in `new`, in words."""
    found: list[str] = []
    for path, methods in old["paths"].items():
        for method in (m for m in METHODS if m in methods):
            name = f"{method.upper()} {path}"
            operation = new["paths"].get(path, {}).get(method)
            found += _operation(old, new, methods[method], operation, name) if operation else [f"{name}: removed"]
    return found


def additions(old: Document, new: Document) -> list[str]:
    """Operations that only `new` has."""
    known = {(path, method) for path, methods in old["paths"].items() for method in methods}
    return [f"{m.upper()} {p}" for p, methods in new["paths"].items() for m in methods if (p, m) not in known]


def _operation(old: Document, new: Document, was: Schema, now: Schema, name: str) -> Iterator[str]:
    if was["operationId"] != now["operationId"]:
        yield f"{name}: operationId was {was['operationId']}, is {now['operationId']}"
    before, after = ({(p["in"], p["name"].lower()): p for p in o.get("parameters", ())} for o in (was, now))
    for key, parameter in after.items():
        where = f"{name}: parameter {parameter['name']}"
        if key not in before:
            if parameter.get("required"):
                yield f"{where}: new and required"
            continue
        if parameter.get("required") and not before[key].get("required"):
            yield f"{where}: now required"
        yield from refused((new, parameter["schema"]), (old, before[key]["schema"]), where)
    for place, asked in before.keys() - after.keys():
        yield f"{name}: parameter {asked} in {place}: removed"
    yield from _body(old, new, was.get("requestBody"), now.get("requestBody"), f"{name}: body")
    for status, answer in was["responses"].items():
        if status < "4":
            yield from _answer(old, new, answer, now["responses"].get(status), f"{name}: answer {status}")


def _body(old: Document, new: Document, was: Schema, now: Schema, name: str) -> Iterator[str]:
    if now and now.get("required") and not (was or {}).get("required"):
        yield f"{name}: now required"
    for media, content in (was or {}).get("content", {}).items():
        if media not in (now or {}).get("content", {}):
            yield f"{name}: {media} is taken no more"
        else:
            yield from refused((new, now["content"][media]["schema"]), (old, content["schema"]), name)


def _answer(old: Document, new: Document, was: Schema, now: Schema, name: str) -> Iterator[str]:
    if now is None:
        yield f"{name}: removed"
        return
    yield from (f"{name}: header {h}: removed" for h in was.get("headers", {}).keys() - now.get("headers", {}).keys())
    for media, content in was.get("content", {}).items():
        if media not in now.get("content", {}):
            yield f"{name}: {media} is given no more"
        else:  # what is answered now has to be what was understood then
            yield from refused((old, content["schema"]), (new, now["content"][media]["schema"]), name, open_=True)


Located = tuple[Document, Schema]
"""A schema, and the document that its references are in."""
Known = dict[tuple[str, str], list[str]]
"""What was found of two schemas before, or none while they are being compared: schemas refer to one another."""


def refused(taker: Located, giver: Located, at: str, open_: bool = False, known: Known | None = None) -> list[str]:
    """Why something that is valid by `giver` may not be by `taker`; none if all of it is.

    With `open_`, the taker passes over unknown fields and values of enumerations, as clients must.
    """
    refs = (json.dumps(taker[1], sort_keys=True), json.dumps(giver[1], sort_keys=True))
    known = {} if known is None else known
    if refs in known:
        return known[refs]
    known[refs] = []
    takes, gives = _alternatives(*taker), _alternatives(*giver)
    found = []
    for given in gives:
        tried = [_refused((taker[0], each), (giver[0], given), at, open_, known) for each in _for(given, takes)]
        if not tried:
            found.append(f"{at}: {_kind(given)} is not taken")
        elif all(tried):
            found += sorted(tried, key=len)[0]
    known[refs] = found
    return found


def _alternatives(document: Document, schema: Schema) -> list[Schema]:
    """A union's members, references resolved; a list of types is a union too."""
    schema = _resolved(document, schema)
    for word in ("anyOf", "oneOf"):
        if word in schema:
            return [each for member in schema[word] for each in _alternatives(document, member)]
    if isinstance(schema.get("type"), list):
        return [schema | {"type": kind} for kind in schema["type"]]
    return [schema]


def _resolved(document: Document, schema: Schema) -> Schema:
    while "$ref" in schema:
        name = schema["$ref"].removeprefix("#/components/schemas/")
        schema = document["components"]["schemas"][name] | {k: v for k, v in schema.items() if k != "$ref"}
    return schema


def _for(given: Schema, takes: list[Schema]) -> list[Schema]:
    """The alternatives that could take it: of the same type, and of the same tag where that is told."""
    alike = [t for t in takes if t.get("type") in (None, given.get("type"))]
    alike += [t for t in takes if given.get("type") == "integer" and t.get("type") == "number"]
    tagged = [t for t in alike if _tags(t) and _tags(t) == _tags(given)]
    return tagged or alike


def _tags(schema: Schema) -> dict[str, Any]:
    return {name: p["const"] for name, p in schema.get("properties", {}).items() if "const" in p}


def _kind(schema: Schema) -> str:
    return json.dumps(_tags(schema) or schema.get("const") or schema.get("type", "anything"))


AT_LEAST = ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties")
AT_MOST = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")


def _refused(taker: Located, giver: Located, at: str, open_: bool, known: Known) -> list[str]:
    take, give = taker[1], giver[1]
    found = [f"{at}: {word} is {take[word]}, was {give.get(word, 'none')}" for word in (*AT_LEAST, *AT_MOST)
             if word in take and not _within(word, take[word], give.get(word))]  # fmt: skip
    if "pattern" in take and take["pattern"] != give.get("pattern"):
        found.append(f"{at}: pattern is {take['pattern']}, was {give.get('pattern', 'none')}")
    if not open_ and (values := _values(take)) is not None:
        missing = [v for v in _values(give) or [None] if v not in values]
        found += [f"{at}: no longer takes {json.dumps(v)}" for v in missing]
    for index, part in enumerate(take.get("prefixItems", ())):
        given = give.get("prefixItems", ())[index : index + 1]
        found += (
            refused((taker[0], part), (giver[0], given[0]), f"{at}[{index}]", open_, known)
            if given
            else [f"{at}: is no tuple"]
        )
    for word, mark in (("items", "[]"), ("additionalProperties", "{}")):
        if isinstance(take.get(word), dict) and isinstance(give.get(word), dict):
            found += refused((taker[0], take[word]), (giver[0], give[word]), at + mark, open_, known)
    return found + _fields(taker, giver, at, open_, known)


def _fields(taker: Located, giver: Located, at: str, open_: bool, known: Known) -> list[str]:
    (take, give) = taker[1], giver[1]
    wanted, given = take.get("properties", {}), give.get("properties", {})
    must, sure = take.get("required", ()), give.get("required", ())
    # An answer always has the fields with defaults, although pydantic does not call them required.
    sure = list(given) if open_ else sure
    found = [f"{at}.{name}: {'removed' if open_ else 'now required'}" for name in must if name not in sure]
    if open_:
        found += [f"{at}.{name}: removed" for name in wanted if name not in given and name not in must]
    elif take.get("additionalProperties") is False:
        found += [f"{at}.{name}: removed" for name in given if name not in wanted]
    for name in wanted.keys() & given.keys():
        found += refused((taker[0], wanted[name]), (giver[0], given[name]), f"{at}.{name}", open_, known)
    return found


def _within(word: str, taken: float, given: float | None) -> bool:
    return given is not None and (given >= taken if word in AT_LEAST else given <= taken)


def _values(schema: Schema) -> list[Any] | None:
    if "const" in schema:
        return [schema["const"]]
    values: list[Any] | None = schema.get("enum")
    return values


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--accept", action="store_true", help="store the present schema")
    parser.add_argument("--break", action="store_true", dest="breaking", help="even if it breaks clients")
    chosen, new = parser.parse_args(), present()
    old = json.loads(STORED.read_text()) if STORED.exists() else {"paths": {}}
    broken = breaks(old, new)
    for line in [*(f"breaks: {each}" for each in broken), *(f"new: {each}" for each in additions(old, new))]:
        print(line)  # noqa: T201 - a command's answer
    if broken and not chosen.breaking:
        sys.exit("clients of the stored schema would break")
    if chosen.accept:
        STORED.write_text(json.dumps(bare(new), indent=1, ensure_ascii=False, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
