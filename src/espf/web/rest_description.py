"""/rest in the OpenAPI document: made of what the methods' models, names and docstrings say."""

import re
from collections.abc import Iterator, Mapping
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic.json_schema import models_json_schema

from espf.model import MAX_ENV
from espf.web.methods import AuthInfo, Signature, signatures

Schema = dict[str, Any]

REF_TEMPLATE = "#/components/schemas/Billing.{model}"

#: Members that an example shows; more would be read by nobody.
EXAMPLE_MEMBERS = 3

_JSON = "application/json"
_KINDS = (_JSON, "application/x-www-form-urlencoded", "multipart/form-data")

_NUMBER: Schema = {"type": "integer"}
_MONEY: Schema = {"type": "number"}
_TEXT: Schema = {"type": "string"}
_FLAG: Schema = {"enum": ["Y", "N"]}
_RECORD: Schema = {"type": "object"}
_RECORDS: Schema = {"type": "array", "items": _RECORD}

#: What the members of answers are, where their names do not say it in the vendor's way.
_MEMBERS: Mapping[str, Schema] = {
    **dict.fromkeys(("activated", "added", "removed", "updated", "success"), _NUMBER),
    **dict.fromkeys(("remaining", "transaction_id", "user_id"), _NUMBER),
    **dict.fromkeys(("amount_due", "balance", "charged"), _MONEY),
    **dict.fromkeys(("authorised", "exceeded"), _FLAG),
    **dict.fromkeys(("reason", "session_id", "access_token", "refresh_token"), _TEXT),
    "expires_at": _TEXT,
    **dict.fromkeys(("custom_fields_values", "followme_numbers", "service_features"), _RECORDS),
    **dict.fromkeys(("subscriptions", "vd_counter_info"), _RECORDS),
}

#: Where two models have one name, the generator puts the module before it.
_MODULE = re.compile(r"espf__(?:billing|web)__([a-z_]+?)__")

_ENVIRONMENT: Schema = {
    "type": "integer",
    "minimum": 1,
    "maximum": MAX_ENV,
    "description": "Another environment than your own; superusers only.",
}

_FAULT: Schema = {
    "type": "object",
    "properties": {
        "faultcode": {
            "type": "string",
            "pattern": r"^(Client|Server)(\.\w+)+$",
            "examples": ["Server.Account.not_found"],
        },
        "faultstring": {
            "type": "string",
            "examples": ["Account: there is no such record"],
        },
    },
    "required": ["faultcode", "faultstring"],
    "additionalProperties": False,
}


def add_to(document: Schema) -> None:
    """Describe every method of the billing in a document of the other routes."""
    methods = signatures()
    references, definitions = _definitions(methods)
    schemas = document["components"]["schemas"]
    schemas |= {f"Billing.{name}": one for name, one in definitions.items()}
    schemas["Billing.Fault"] = _FAULT
    for path, method in sorted(methods.items()):
        document["paths"][f"/rest/{path}"] = {"post": _operation(path, method, references)}


def _definitions(
    methods: Mapping[str, Signature],
) -> tuple[Mapping[type[BaseModel], Schema], Mapping[str, Schema]]:
    """A reference to the schema of each model, and the schemas."""
    models: set[type[BaseModel]] = {AuthInfo, *(method.params for method in methods.values())}
    ordered = sorted(models, key=lambda model: (model.__module__, model.__name__))
    references, document = models_json_schema(
        [(model, "validation") for model in ordered], ref_template=REF_TEMPLATE
    )
    definitions = _tidied(document["$defs"])
    named = {model: _tidied(references[model, "validation"]) for model in ordered}
    for path, method in methods.items():
        # It is taken before the parameters are looked at.
        if not path.startswith("Session/"):
            name = named[method.params]["$ref"].removeprefix(REF_TEMPLATE.format(model=""))
            definitions[name].setdefault("properties", {})["i_env"] = _ENVIRONMENT
    return named, definitions


def _tidied(part: Any) -> Any:
    """A generated part without titles that repeat the name, and with names that people can read."""
    match part:
        case dict():
            return {
                _MODULE.sub(r"\1.", name): _tidied(one)
                for name, one in part.items()
                if not (name == "title" and isinstance(one, str))
            }
        case list():
            return [_tidied(one) for one in part]
        case str():
            return _MODULE.sub(r"\1.", part)
        case _:
            return part


def _operation(
    path: str, method: Signature, references: Mapping[type[BaseModel], Schema]
) -> Schema:
    service, _, name = path.partition("/")
    of_session = service == "Session"
    return {
        "tags": [f"Billing: {service}"],
        "operationId": f"{service}.{name}",
        "summary": method.said.partition("\n")[0],
        "description": method.said,
        # Who calls is said in a header or in the body, as ``auth_info``.
        "security": [] if of_session else [{"basic": []}, {"bearer": []}, {}],
        "requestBody": {
            "required": True,
            "content": dict.fromkeys(_KINDS, _request(method, references)),
        },
        "responses": {
            "200": {"description": "It is done", "content": {_JSON: {"schema": _reply(method)}}},
            "500": {
                "description": "Whatever goes wrong",
                "content": {_JSON: {"schema": {"$ref": REF_TEMPLATE.format(model="Fault")}}},
            },
        },
    }


def _request(method: Signature, references: Mapping[type[BaseModel], Schema]) -> Schema:
    """The envelope; in a form, both members are texts of JSON."""
    return {
        "schema": {
            "type": "object",
            "properties": {
                "auth_info": references[AuthInfo],
                "params": references[method.params],
            },
            "required": [] if _is_taken(method.params, {}) else ["params"],
            "additionalProperties": False,
            "examples": [{"params": example_of(method.params)}],
        },
        "encoding": {name: {"contentType": _JSON} for name in ("auth_info", "params")},
    }


def _reply(method: Signature) -> Schema:
    members = {name.rstrip("?"): _member(name.rstrip("?")) for name in method.reply.split()}
    return {
        "type": "object",
        "properties": members,
        "required": [name for name in method.reply.split() if not name.endswith("?")],
        "additionalProperties": False,
    }


def _member(name: str) -> Schema:
    if (known := _MEMBERS.get(name)) is not None:
        return known
    if name.startswith("i_"):
        return _NUMBER
    return _RECORDS if name.endswith("_list") else _RECORD


def example_of(model: type[BaseModel]) -> dict[str, Any]:
    """Parameters that the model takes: those that must be there, and a few that may be."""
    properties = model.model_json_schema()["properties"]
    example = {
        name: _value(field, properties[name])
        for name, field in model.model_fields.items()
        if field.is_required()
    }
    for name, value in _optional(model, properties):
        enough = len(example) >= EXAMPLE_MEMBERS
        if enough and _is_taken(model, example):
            break
        if _is_taken(model, {**example, name: value}):
            example[name] = value
    return example


def _optional(
    model: type[BaseModel], properties: Mapping[str, Schema]
) -> Iterator[tuple[str, object]]:
    for name, field in model.model_fields.items():
        if not field.is_required() and _is_simple(field):
            yield name, _sample(properties[name])


def _is_taken(model: type[BaseModel], params: Mapping[str, object]) -> bool:
    try:
        model.model_validate(params)
    except ValidationError:
        return False
    return True


def _is_simple(field: FieldInfo) -> bool:
    return _model_in(field) is None and list not in _kinds(field.annotation)


def _value(field: FieldInfo, schema: Schema) -> object:
    """An example of what a field takes."""
    model = _model_in(field)
    if model is not None:
        inner = example_of(model)
        return [inner] if list in _kinds(field.annotation) else inner
    return _sample(schema)


def _sample(schema: Schema) -> object:
    for choice in (schema, *schema.get("anyOf", ())):
        for word in ("examples", "enum"):
            if word in choice:
                return choice[word][0]
        if choice.get("type") == "array":
            return [_sample(choice["items"])]
    return schema["const"]


def _model_in(field: FieldInfo) -> type[BaseModel] | None:
    """The model of the objects that a field takes, in a list or not."""
    for kind in _kinds(field.annotation):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
    return None


def _kinds(annotation: object) -> Iterator[object]:
    """The types that an annotation is made of."""
    yield annotation
    origin = getattr(annotation, "__origin__", None)
    if origin is not None:
        yield origin
    for part in get_args(annotation):
        yield from _kinds(part)
