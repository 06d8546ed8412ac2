"""Reads dashboards with the models of `grafana-foundation-sdk`, strictly.

The models alone pass over what they do not know, and keep a value of any type. So a dashboard is
written again from its models: what has not come through is a property that the schema does not
have. Every value is then held against the type of its attribute.

Prints a JSON object: each file, and its mistakes as a path and a sentence.
"""

import enum
import json
import sys
import typing

from grafana_foundation_sdk.cog import encoder, plugins
from grafana_foundation_sdk.models import dashboard

# Written by "Export for sharing externally"; Grafana takes them away when it imports the file.
OF_IMPORTS = ("__inputs", "__requires")

# Properties of an annotation that belong to the data source, Prometheus, and not to the schema.
OF_ANNOTATIONS = ("titleFormat",)


def lost(given, kept, path):
    """Yields what is in a document and not, or not so, in what the models made of it."""
    if isinstance(given, dict) and isinstance(kept, dict):
        for key, value in given.items():
            if key in kept:
                yield from lost(value, kept[key], f"{path}.{key}")
            elif value is not None:
                yield f"{path}.{key}: the schema has no such property"
    elif isinstance(given, list) and isinstance(kept, list) and len(given) == len(kept):
        for place, pair in enumerate(zip(given, kept)):
            yield from lost(*pair, f"{path}[{place}]")
    elif given != kept or type(given) is not type(kept):
        yield f"{path}: {given!r} was read as {kept!r}"


def attributes(model):
    """Returns the attributes of a model's instance with their types."""
    module = vars(sys.modules[type(model).__module__])
    return typing.get_type_hints(type(model), module)


def fits(value, kind):
    """Returns whether a value is of a type."""
    origin = typing.get_origin(kind)
    if kind in (typing.Any, object):
        return True
    if origin is typing.Union:
        return any(fits(value, one) for one in typing.get_args(kind))
    if origin is typing.Literal:
        return value in typing.get_args(kind)
    if origin is list:
        (item,) = typing.get_args(kind)
        return isinstance(value, list) and all(fits(one, item) for one in value)
    if origin is dict:
        item = typing.get_args(kind)[1]
        return isinstance(value, dict) and all(fits(one, item) for one in value.values())
    if issubclass(kind, enum.Enum):
        return value in [one.value for one in kind]
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, kind)


def mistyped(value, path):
    """Yields attributes of models, to any depth, whose values are of another type."""
    if isinstance(value, list):
        for place, one in enumerate(value):
            yield from mistyped(one, f"{path}[{place}]")
    elif isinstance(value, dict):
        for key, one in value.items():
            yield from mistyped(one, f"{path}.{key}")
    elif hasattr(value, "to_json"):
        for name, kind in attributes(value).items():
            one = getattr(value, name)
            if not fits(one, kind):
                yield f"{path}.{name}: {one!r} is not {kind}"
            yield from mistyped(one, f"{path}.{name}")


def read(given):
    """Returns the model of a dashboard."""
    model = dashboard.Dashboard.from_json(given)
    for panel in model.panels or []:
        # The one list of models that `Panel.from_json` leaves as it is.
        changes = getattr(panel, "transformations", None)
        if changes is not None:
            panel.transformations = [
                dashboard.DataTransformerConfig.from_json(change) for change in changes
            ]
    return model


def mistakes(text):
    """Returns the mistakes of a dashboard."""
    given = json.loads(text)
    for key in OF_IMPORTS:
        given.pop(key, None)
    try:
        for annotation in given["annotations"]["list"]:
            for key in OF_ANNOTATIONS:
                annotation.pop(key, None)
        model = read(given)
        kept = json.loads(json.dumps(model, cls=encoder.JSONEncoder))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        return [f"the models cannot read it: {error!r}"]
    return [*lost(given, kept, "dashboard"), *mistyped(model, "dashboard")]


def main():
    plugins.register_default_plugins()
    found = {}
    for path in sys.argv[1:]:
        with open(path, encoding="utf-8") as file:
            found[path] = mistakes(file.read())
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
