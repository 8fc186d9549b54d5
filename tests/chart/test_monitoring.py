"""Alert rules, ServiceMonitors and the dashboard of the chart: they render, and ask for nothing that is not told."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from agentos_contracts.worker import ENGINE_NAME
from agentos_operator.plan.objects.engine import engine_service
from ruamel.yaml import YAML

from tests.chart.test_chart import CHART, ROOT, Helm, one
from tests.cluster.progress import Steps
from tests.cluster.tools import helm
from tests.metrics_page import engine, operator, series

ON = {
    "serviceMonitor": {"enabled": True, "interval": "15s", "labels": {"release": "prometheus"}},
    "rules": {"enabled": True, "labels": {"release": "prometheus"}},
    "dashboard": {"enabled": True},
}
RULES = YAML(typ="safe").load(CHART / "alerts.yaml")
DASHBOARD = json.loads((CHART / "dashboards" / "agentos.json").read_text())
ALERTS = {rule["alert"]: rule for group in RULES["groups"] for rule in group["rules"]}
PANELS = {panel["title"]: panel for panel in DASHBOARD["panels"] if panel["type"] != "row"}

SCRAPED = {"namespace", "pod", "job", "instance", "le"}
"""Labels that Prometheus or the kind of metric adds."""
KEYWORDS = {"and", "or", "unless", "by", "without", "on", "ignoring", "bool", "offset", "inf", "nan"}
FUNCTIONS = {
    *("absent", "deriv", "histogram_quantile", "increase", "label_values", "max", "max_over_time", "min"),
    *("predict_linear", "rate", "sum", "topk", "vector"),
}
NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"


def selectors(expression: str) -> Iterator[tuple[str, set[str]]]:
    """The metrics that a PromQL expression names, each with the labels that it selects by."""
    text = re.sub(r'"[^"]*"', '""', expression)
    text = re.sub(r"\b(by|without|on|ignoring)\s*\([^)]*\)", " ", text)
    for match in re.finditer(rf"(?<![\w:.$])({NAME})\s*(\{{[^}}]*\}}|\()?", text):
        name, behind = match[1], match[2] or ""
        if behind == "(":
            assert name in FUNCTIONS | KEYWORDS, f"{name} is no function that is known here"
        elif name not in KEYWORDS:
            yield name, set(re.findall(rf"({NAME})\s*(?:=~|!~|!=|=)", behind))
        text = text.replace(match[0], " ", 1) if behind.startswith("{") else text


def grouped(expression: str) -> set[str]:
    """The labels by which an expression sums up."""
    found = re.findall(r"\bby\s*\(([^)]*)\)", expression)
    return {label.strip() for group in found for label in group.split(",")}


def check(expression: str) -> None:
    """An expression is balanced, and all its metrics and labels are there to be asked for."""
    for left, right in ("()", "{}", "[]"):
        assert expression.count(left) == expression.count(right), expression
    plain = re.sub(r"\{[^}]*\}|\[[^\]]*\]", lambda part: part[0] if part[0][0] == "{" else " ", expression)
    labels = {name: set(names) for name, _, names, _ in (*engine(), *operator())}
    known = series() | {"up"}
    named = list(selectors(plain))
    assert named, f"no metric in {expression}"
    allowed = set(SCRAPED)
    for name, selected in named:
        assert name in known, f"{name} is told by neither engine nor operator: {expression}"
        family = name if name in labels else re.sub(r"_(bucket|sum|count)$", "", name)
        own = labels.get(family, set()) | SCRAPED
        assert selected <= own, f"{name} has no label {selected - own}: {expression}"
        allowed |= own
    assert grouped(expression) <= allowed, f"no metric has {grouped(expression) - allowed}: {expression}"


@pytest.fixture
def chart(tmp_path: Path) -> Helm:
    return Helm(helm(Steps()), tmp_path)


@pytest.mark.parametrize("expression", ["no_such_metric > 0", 'up{color="red"} == 0', "sum by (color) (up)", "sum(up"])
def test_the_check_finds_what_is_wrong(expression: str) -> None:
    with pytest.raises(AssertionError):
        check(expression)


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_asks_for_metrics_that_are_told_and_has_a_page(alert: str) -> None:
    rule = ALERTS[alert]
    assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
    check(rule["expr"])
    assert re.fullmatch(r"[1-9]\d*[smh]", rule.get("for", "1m"))
    assert rule["labels"]["severity"] in ("critical", "warning", "info")
    annotations = rule["annotations"]
    assert set(annotations) == {"summary", "description", "runbook"}
    assert annotations["runbook"] == f"docs/alerts.md#{alert.lower()}"
    used = set(re.findall(rf"\$labels\.({NAME})", " ".join(annotations.values())))
    labels = grouped(rule["expr"]) or SCRAPED
    assert used <= labels, f"the alert has no label {used - labels}"
    for text in annotations.values():
        assert text.count("{{") == text.count("}}")


def test_the_page_has_every_alert_once_and_says_what_to_do() -> None:
    page = (ROOT / "docs" / "alerts.md").read_text()
    parts = re.split(r"^## (\w+)\n", page, flags=re.MULTILINE)[1:]
    assert parts[0::2] == list(ALERTS)
    for text in parts[1::2]:
        assert "\nLook: " in text
        assert "\nDo: " in text
    assert set(re.findall(r"\(#(\w+)\)", page)) <= {alert.lower() for alert in ALERTS}


@pytest.mark.parametrize("title", PANELS)
def test_a_panel_asks_for_metrics_that_are_told(title: str) -> None:
    panel = PANELS[title]
    assert panel["datasource"]["uid"] == "${datasource}"
    for target in panel["targets"]:
        check(target["expr"].replace("$__rate_interval", "5m"))
        used = set(re.findall(rf"\{{\{{({NAME})\}}\}}", target["legendFormat"]))
        assert used <= grouped(target["expr"])


def test_no_two_panels_are_in_one_place() -> None:
    places = [
        (x, y)
        for panel in DASHBOARD["panels"]
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(places) == len(set(places))
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    variables = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
    (source,) = selectors(variables["namespace"]["query"]["query"].split("(")[1].split(",")[0])
    assert source[0] in series()


def test_nothing_is_made_that_was_not_asked_for(chart: Helm) -> None:
    kinds = {"ServiceMonitor", "PrometheusRule", "ConfigMap"}
    assert not [o for o in chart.render() if o["kind"] in kinds]
    for key, made in (
        ("serviceMonitor", {("ServiceMonitor", "agentos-operator"), ("ServiceMonitor", "agentos-engine")}),
        ("rules", {("PrometheusRule", "agentos")}),
        ("dashboard", {("ConfigMap", "agentos-dashboard")}),
    ):
        objects = chart.render({"metrics": {key: ON[key]}})
        assert {(o["kind"], o["metadata"]["name"]) for o in objects if o["kind"] in kinds} == made


def test_rules_and_dashboard_arrive_as_they_stand_in_the_tree(chart: Helm) -> None:
    objects = chart.render({"metrics": ON})
    assert one(objects, "PrometheusRule")["spec"] == RULES
    assert one(objects, "PrometheusRule")["metadata"]["labels"]["release"] == "prometheus"
    dashboard = one(objects, "ConfigMap")
    assert json.loads(dashboard["data"]["agentos.json"]) == DASHBOARD
    assert dashboard["metadata"]["labels"]["grafana_dashboard"] == "1"


def test_the_monitors_find_the_services_and_their_ports(chart: Helm) -> None:
    objects = chart.render({"metrics": ON})
    realm = {"metadata": {"name": "prod", "uid": "u"}, "spec": {"namespace": "prod"}, "kind": "Realm"}
    service_of = {
        "agentos-operator": one(objects, "Service"),
        "agentos-engine": engine_service(realm | {"apiVersion": "agentos.dev/v1alpha1"}),
    }
    assert service_of["agentos-engine"]["metadata"]["name"] == ENGINE_NAME
    for name, service in service_of.items():
        monitor = one(objects, "ServiceMonitor", name)
        assert monitor["metadata"]["labels"]["release"] == "prometheus"
        selector = monitor["spec"]["selector"]["matchLabels"]
        assert selector.items() <= service["metadata"]["labels"].items()
        (endpoint,) = monitor["spec"]["endpoints"]
        assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}
        assert (endpoint["path"], endpoint["interval"]) == ("/metrics", "15s")
    assert one(objects, "ServiceMonitor", "agentos-engine")["spec"]["namespaceSelector"] == {"any": True}
    assert one(objects, "ServiceMonitor", "agentos-operator")["spec"]["endpoints"][0]["honorLabels"] is True
    assert one(objects, "Service")["metadata"]["name"] == "agentos-operator"
    engine_selector = one(objects, "ServiceMonitor", "agentos-engine")["spec"]["selector"]["matchLabels"]
    assert not engine_selector.items() <= one(objects, "Service")["metadata"]["labels"].items()
