"""No panel of the dashboards lies on another, and every query of theirs finds data.

The data are of a real run: a sidecar with a fake engine below it, traffic, errors and a restart,
scraped by a real Prometheus with the shipped rules. Beside it are pages of what it has not: GPUs
and several models.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import yaml

from tests.engine.service import Service, wait_until
from tests.monitoring import exporter, traffic
from tests.monitoring.metric_names import known, labels_of, names_in
from tests.monitoring.pod import SwappingPod
from tests.monitoring.server import MONITORING, Prometheus, Series
from tests.patience import PATIENCE
from tests.proxy.engine.living import Gate, starting
from tests.tools import tool

ROOT = MONITORING.parent
FOLDER = MONITORING / "grafana/dashboards"
DASHBOARDS = {path.name: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))}
# What Grafana fills in. Nothing may be left of `$name` after it.
VARIABLES = {
    "$__rate_interval": "5s",
    "$__range_s": "60",
    "$__range": "60s",
    "$__interval": "1s",
    # As chosen, not "all": `.*` also finds a label that is not there.
    "$instance": "sidecar:8000",
    "$route": "chat|completions|messages",
    "$model": "tiny|second",
    "$GPU_PRICE_PER_HOUR": "",  # nothing is typed
}
# A sidecar with several models.
SEVERAL = "several:8000"
BEFORE_SECONDS, AFTER_SECONDS = 3.0, 4.0


class Query(NamedTuple):
    """One query of one panel."""

    place: str
    expr: str
    instant: bool


def queries() -> list[Query]:
    return [
        Query(
            f"{dashboard['title']} / {panel['title']} / {target['refId']}",
            target["expr"],
            target.get("instant", False),
        )
        for dashboard in DASHBOARDS.values()
        for panel in dashboard["panels"]
        for target in panel.get("targets", ())
    ]


def filled_in(expr: str, place: str = "") -> str:
    if place.startswith("Models / "):
        expr = expr.replace("$instance", SEVERAL)
    for name, value in VARIABLES.items():
        expr = expr.replace(name, value)
    assert "$" not in expr
    return expr


@pytest.mark.parametrize("name", DASHBOARDS)
def test_panels_do_not_lie_on_each_other(name: str) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARDS[name]["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (place["x"] + dx, place["y"] + dy)
            for dx in range(place["w"])
            for dy in range(place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells


def test_queries_ask_for_metrics_that_there_are() -> None:
    rules = yaml.safe_load((MONITORING / "rules.yml").read_text())["groups"]
    recorded = {rule["record"] for group in rules for rule in group["rules"]}
    asked = {name for query in queries() for name in names_in(query.expr)}
    assert len(asked) > 30
    assert asked - recorded - known() == set()


@pytest.mark.parametrize("name", DASHBOARDS)
def test_a_filter_holds_for_every_panel_whose_metrics_have_its_label(name: str) -> None:
    filters = {each["name"] for each in DASHBOARDS[name]["templating"]["list"]}
    for query in queries():
        if query.place.split(" / ")[0] != DASHBOARDS[name]["title"]:
            continue
        assert "instance:" not in query.expr or not filters & {"route", "model"}, query.place
        labels = {label for metric in names_in(query.expr) for label in labels_of(metric)}
        for label in labels & filters & {"route", "model"}:
            assert f'{label}=~"${label}"' in query.expr, query.place


# What they find -------------------------------------------------------------------------------


@dataclass
class Run:
    """A run that is over, and the Prometheus that has seen it."""

    prometheus: Prometheus
    service: Service
    began: float
    ended: float

    def find(self, query: Query) -> Series:
        """As the panel would: over the time of the run, or at its end."""
        expr = filled_in(query.expr, query.place)
        if query.instant:
            return self.prometheus.at(expr, self.ended)
        return self.prometheus.over(expr, self.began, self.ended)


def has_a_value(series: dict[str, Any]) -> bool:
    points = series.get("values") or [series["value"]]
    return any(math.isfinite(float(value)) for _, value in points)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    program = tool("prometheus")
    folder = tmp_path_factory.mktemp("run")
    model = folder / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    with ExitStack() as stack:
        pod = SwappingPod()
        start = stack.enter_context(starting(folder, model))
        gate = Gate(folder, is_open=True)
        names = {"SERVED_MODEL_NAME": "tiny,second"}
        service = start(GPU_PRICE_PER_HOUR="1.99", **names, **gate.environ)
        service.wait_for("ready", PATIENCE)
        gauges = exporter.page(missing_from=service.client.get("/metrics").text)
        ports = {
            "sidecar": service.port,
            "engine": service.port,
            "gauges": stack.enter_context(exporter.exporting(lambda: gauges)),
            "several": stack.enter_context(exporter.exporting(pod.page)),
        }
        others = {"several": SEVERAL}
        prometheus = stack.enter_context(Prometheus(program, folder, ports, others))
        began = time.time()
        prometheus.until_scraped()
        pod.swap(prometheus.until_scraped)
        traffic.ordinary(service, BEFORE_SECONDS)
        prometheus.until_scraped()
        traffic.errors(service)
        traffic.crash(service, gate)
        traffic.ordinary(service, AFTER_SECONDS)
        prometheus.until_scraped()
        prometheus.until_evaluated()
        yield Run(prometheus, service, began, time.time())


@pytest.mark.parametrize("query", queries(), ids=lambda query: query.place)
def test_a_query_of_a_panel_finds_data(run: Run, query: Query) -> None:
    found = run.find(query)
    print(f"{len(found):3} series: {query.place}: {query.expr}")
    assert found, query.expr
    assert any(has_a_value(series) for series in found), query.expr


@pytest.mark.parametrize("query", queries(), ids=lambda query: query.place)
def test_a_panel_has_a_gap_and_no_infinity_where_nothing_was_asked(run: Run, query: Query) -> None:
    """The run is over, and a window of two seconds holds nothing of it any more."""
    over = "sum(increase(sidecar_requests_total[2s])) == 0"
    wait_until(lambda: bool(run.prometheus.now(over)), PATIENCE, "two seconds without a request")
    expr = re.sub(r"\[(\$__\w+|1h)\b", "[2s", query.expr)
    values = [
        float(series["value"][1]) for series in run.prometheus.now(filled_in(expr, query.place))
    ]
    assert not any(map(math.isinf, values)), expr


@pytest.mark.parametrize("name", DASHBOARDS)
def test_variables_have_something_to_choose_from(run: Run, name: str) -> None:
    for variable in DASHBOARDS[name]["templating"]["list"]:
        if variable["type"] == "query":
            asked = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["definition"])
            assert asked is not None
            assert run.prometheus.label_values(asked[1], asked[2]), variable["name"]


def test_a_price_that_is_typed_goes_before_the_one_that_is_told(run: Run) -> None:
    (expr,) = [q.expr for q in queries() if q.place.startswith("Cost / Price of a million gen")][:1]
    told, typed = (
        float(
            run.prometheus.at(filled_in(expr.replace("$GPU_PRICE_PER_HOUR", price)), run.ended)[0][
                "value"
            ][1]
        )
        for price in ("", "19.9")
    )
    assert typed == pytest.approx(10 * told, rel=0.01)


def test_the_restart_is_counted_with_its_cause(run: Run) -> None:
    (query,) = [
        each for each in queries() if each.place.startswith("Engine and GPU / Restarts, by")
    ]
    (series,) = run.find(query)
    assert series["metric"] == {"cause": "crashed"}
    assert series["value"][1] == "1"


def test_every_rule_can_be_evaluated(run: Run) -> None:
    groups = run.prometheus.ask("rules")["groups"]
    health = {
        rule["name"]: (rule["health"], rule.get("lastError")) for g in groups for rule in g["rules"]
    }
    assert len(health) > 20
    assert {name: said for name, said in health.items() if said[0] != "ok"} == {}


def test_recorded_quantiles_are_those_of_the_engine_and_the_sidecar(run: Run) -> None:
    """The fake engine's first token takes 60 ms and more; the sidecar can only be later."""
    query = 'instance:{}:quantile_5m{{quantile="p50"}}'
    (ours,) = run.prometheus.now(query.format("sidecar_time_to_first_token_seconds"))
    (theirs,) = run.prometheus.now(query.format("vllm:time_to_first_token_seconds"))
    assert float(theirs["value"][1]) > 0.04
    assert float(ours["value"][1]) > 0.04
