"""Renders and lints a chart by Helm's own library: CHART, and values as JSON.

Prints {"lint": …, "rendered": {template: text}} or {"error": text}.
"""

import json
import sys

import helm_python

helm_python.disable_logging()
path, values = sys.argv[1], json.loads(sys.argv[2])
place = {"name": "cofferdam", "namespace": "cofferdam-system"}
try:
    lint = helm_python.lint(path, values, strict=True)
    chart = helm_python.Chart.load(path)
    chart.validate_schema(values)
    result = {"lint": lint, "rendered": chart.render(values, **place)}
except helm_python.HelmError as error:
    result = {"error": str(error)}
print(json.dumps(result))
