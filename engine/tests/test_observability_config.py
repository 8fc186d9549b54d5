"""The settings as they stand in ``config.yaml``."""

import pytest
from agentos_engine.config import SettingsError
from agentos_engine.observability.config import AlertAction, ObservabilityConfig, RateLimit, SamplingRule, read_config

ALERT = {"name": "a", "metric": "iii.invocations.error", "threshold": 10}


@pytest.mark.parametrize("values", [None, {}, {"sampling": None, "alerts": None, "endpoint": None}])
def test_what_is_not_set_has_its_default(values):
    assert read_config(values) == ObservabilityConfig()


def test_a_block_of_iii_is_read_as_it_stands():
    config = read_config(
        {
            "enabled": True,
            "service_name": "my-service",
            "service_version": "1.0.0",
            "exporter": "both",
            "endpoint": "http://collector:4318",
            "sampling_ratio": 1,
            "sampling": {
                "default": 0.5,
                "rules": [{"operation": "api.*", "rate": 0.1}],
                "parent_based": False,
                "rate_limit": {"max_traces_per_second": 100},
            },
            "memory_max_spans": 1000,
            "metrics_enabled": True,
            "metrics_exporter": "memory",
            "metrics_retention_seconds": 3600,
            "metrics_max_count": 10000,
            "logs_enabled": True,
            "logs_exporter": "memory",
            "logs_max_count": 1000,
            "logs_retention_seconds": 3600,
            "logs_sampling_ratio": 0.5,
            "logs_console_output": False,
            "level": "debug",
            "format": "json",
            "alerts": [
                ALERT | {"operator": "gte", "window_seconds": 30, "cooldown_seconds": 5, "enabled": False},
                ALERT | {"name": "b", "action": {"type": "webhook", "url": "https://hooks/x"}},
                ALERT | {"name": "c", "action": {"type": "function", "path": "a::b"}},
                ALERT | {"name": "d", "action": "log"},
            ],
            "trace_storage": {"enabled": False, "memory_max_bytes": 1 << 20},
            "live_spans": True,
            "collapse_spans": False,
        }
    )
    assert config.sampling.rules == (SamplingRule(rate=0.1, operation="api.*"),)
    assert config.sampling.rate_limit == RateLimit(100)
    assert [rule.action for rule in config.alerts] == [
        AlertAction(),
        AlertAction("webhook", url="https://hooks/x"),
        AlertAction("function", path="a::b"),
        AlertAction(),
    ]
    assert (config.alerts[0].window_seconds, config.alerts[1].cooldown_seconds) == (30, 60)
    assert config.trace_storage.memory_max_bytes == 1 << 20


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1], "config: expected keys and values, got list"),
        ({"exporters": "x"}, "config.exporters: unknown key; known here are enabled, service_name"),
        ({"exporter": "grpc"}, "config.exporter: 'grpc' is not one of memory, otlp, both"),
        ({"sampling_ratio": 2}, "config.sampling_ratio: Expected `float` <= 1.0"),
        ({"memory_max_spans": "many"}, "config.memory_max_spans: Expected `int`, got `str`"),
        ({"memory_max_spans": 0}, "config.memory_max_spans: Expected `int` >= 1"),
        ({"endpoint": "collector:4318"}, "config: endpoint 'collector:4318' is not a URL"),
        ({"endpoint": "http://collector:x"}, "config: endpoint 'http://collector:x' is not a URL"),
        ({"sampling": {"rules": [{"rate": 1}, {"rat": 1}]}}, "config.sampling.rules[1].rat: unknown key"),
        ({"sampling": {"rules": {"rate": 1}}}, "config.sampling.rules: expected a list, got dict"),
        ({"alerts": [{"name": "a"}]}, "config.alerts[0]: Object missing required field `metric`"),
        ({"alerts": [ALERT | {"metric": "cpu"}]}, "config.alerts[0].metric: 'cpu' is not one of iii.invoc"),
        ({"alerts": [ALERT | {"operator": "~"}]}, "config.alerts[0].operator: '~' is not one of >, gt"),
        ({"alerts": [ALERT | {"action": "webhook"}]}, "config.alerts[0].action: a webhook needs a `url`"),
        ({"alerts": [ALERT | {"action": {"type": "function"}}]}, "config.alerts[0].action: a function action needs"),
        ({"alerts": [ALERT | {"action": "mail"}]}, "config.alerts[0].action.type: 'mail' is not one of log, "),
        ({"alerts": [ALERT, ALERT]}, "config: alerts must have different names: a is there more than once"),
    ],
)
def test_what_cannot_be_is_refused_with_the_place(values, message):
    with pytest.raises(SettingsError) as caught:
        read_config(values)
    assert str(caught.value).startswith(message)


def test_the_place_begins_with_the_path_that_is_given():
    with pytest.raises(SettingsError, match=r"^workers\[2\]\.config\.format: 'xml' is not one of default, json$"):
        read_config({"format": "xml"}, "workers[2].config")
