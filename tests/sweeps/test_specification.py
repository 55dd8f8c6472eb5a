"""Sweep files: what is read, what an overlay changes, and what is refused by key."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from scan_lightning.sweeps import Metric, grid, load_sweep

COMMAND = ["${env}", "tool", "${args}"]
GRID: dict[str, Any] = {
    "method": "grid",
    "parameters": {"b": {"values": [1, 2]}, "a": {"value": "x"}},
    "command": COMMAND,
}
SEARCH: dict[str, Any] = {
    "method": "bayes",
    "metric": {"name": "val/miou_any", "goal": "maximize"},
    "parameters": {"rate": {"distribution": "log_uniform_values", "min": 1.0e-5, "max": 0.1}},
    "command": COMMAND,
}


@pytest.fixture
def written(tmp_path: Path) -> Any:
    """Function that writes a sweep file: ``written(content, name="sweep.yaml")``."""

    def write(content: Any, name: str = "sweep.yaml") -> Path:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(yaml.safe_dump(content, sort_keys=False), "utf-8")
        return path

    return write


def test_load_sweep_reads_what_the_file_says(written: Any) -> None:
    sweep = load_sweep(written({**SEARCH, "name": "Rates", "description": "Which rate?", "run_cap": 7}))
    assert (sweep.name, sweep.stem, sweep.description, sweep.method) == ("Rates", "sweep", "Which rate?", "bayes")
    assert sweep.metric == Metric(name="val/miou_any", goal="maximize")
    assert sweep.parameters == SEARCH["parameters"]
    assert (sweep.command, sweep.run_cap, sweep.early_terminate) == (tuple(COMMAND), 7, None)


def test_load_sweep_without_name_and_goal_takes_the_files_name_and_wandbs_goal(written: Any) -> None:
    sweep = load_sweep(written({**GRID, "metric": {"name": "loss"}}, "ratio.yaml"))
    assert sweep.name == "ratio"
    assert sweep.metric == Metric(name="loss", goal="minimize")


def test_overlay_replaces_command_and_single_parameters_and_null_removes_one(written: Any) -> None:
    overlay = {"command": ["other", "${args}"], "parameters": {"b": None, "c": {"values": [5]}}, "description": "small"}
    sweep = load_sweep(written(GRID), written(overlay, "small.yaml"))
    assert sweep.parameters == {"a": {"value": "x"}, "c": {"values": [5]}}
    assert sweep.command == ("other", "${args}")
    assert sweep.description == "small"


def test_overlay_folder_stands_for_the_file_of_the_same_name(written: Any) -> None:
    overlay = written({"parameters": {"b": {"values": [9]}}}, "quick/sweep.yaml")
    assert grid(load_sweep(written(GRID), overlay.parent)) == [{"a": "x", "b": 9}]
    with pytest.raises(FileNotFoundError, match=r"quick/other\.yaml"):
        load_sweep(written(GRID, "other.yaml"), overlay.parent)


def test_to_yaml_is_a_file_that_reads_the_same(written: Any) -> None:
    sweep = load_sweep(written(GRID), written({"parameters": {"b": {"values": [3.5, {"k": None}]}}}, "small.yaml"))
    again = load_sweep(written(yaml.safe_load(sweep.to_yaml())))
    assert again == sweep
    assert list(yaml.safe_load(sweep.to_yaml())) == ["method", "parameters", "command"]


def test_overlay_that_removes_what_is_not_there_is_refused(written: Any) -> None:
    with pytest.raises(ValueError, match=r"small\.yaml: parameters\.z: null removes what the file has, it has b, a"):
        load_sweep(written(GRID), written({"parameters": {"z": None}}, "small.yaml"))


def test_metric_target_is_reached_in_the_direction_of_the_goal() -> None:
    assert Metric(name="m", goal="maximize", target=0.5).reached(0.5)
    assert not Metric(name="m", goal="maximize", target=0.5).reached(0.4)
    assert Metric(name="m", target=0.5).reached(0.4)
    assert not Metric(name="m").reached(0.0)


@pytest.mark.parametrize(
    ("base", "change", "message"),
    [
        (GRID, {"method": "halving"}, r"method: expected one of grid, random, bayes, got 'halving'"),
        (GRID, {"seeds": 3}, r"seeds: W&B knows no such key"),
        (GRID, {"metrics": []}, r"metrics: only sweeps of one metric"),
        (GRID, {"name": 3}, r"name: expected text, got 3"),
        (GRID, {"run_cap": 0}, r"run_cap: expected a whole number above 0, got 0"),
        (GRID, {"parameters": {}}, r"parameters: expected a mapping of at least one parameter"),
        (GRID, {"parameters": {"a": 3}}, r"parameters\.a: expected a mapping such as .*, got 3"),
        (GRID, {"parameters": {"a b": {"value": 1}}}, r"parameters\.a b: expected a name"),
        (GRID, {"parameters": {"a": {"values": []}}}, r"parameters\.a\.values: expected a list of at least one"),
        (GRID, {"parameters": {"a": {"values": [1, 1]}}}, r"parameters\.a\.values: 1 stands there twice"),
        (GRID, {"parameters": {"a": {"min": 0.0, "max": 1.0}}}, r"parameters\.a: a grid needs a finite set.*uniform"),
        (GRID, {"parameters": {"a": {"foo": 1}}}, r"parameters\.a: expected value, values, min and max, or distrib"),
        (GRID, {"parameters": {"a": {"value": 1, "q": 1}}}, r"parameters\.a: constant knows no q"),
        (GRID, {"parameters": {"a": {"distribution": "gauss"}}}, r"parameters\.a\.distribution: expected one of .*'g"),
        (GRID, {"parameters": {"a": {"parameters": {"b": {"values": 1}}}}}, r"parameters\.a\.parameters\.b\.values: e"),
        (GRID, {"parameters": {"a": {"parameters": {}, "value": 1}}}, r"parameters\.a: expected nothing beside param"),
        (GRID, {"command": "tool"}, r"command: expected a list of parts, got 'tool'"),
        (GRID, {"command": ["${arg}"]}, r"command\[0\]: expected one of env, .*, got \$\{arg\}"),
        (GRID, {"command": ["${program}"]}, r"program: the command has \$\{program\}, expected a file, got none"),
        (GRID, {"command": [["a"]]}, r"command\[0\]: expected text, got \['a'\]"),
        (SEARCH, {"metric": None}, r"metric: method bayes needs a metric, got none"),
        (SEARCH, {"metric": {"goal": "maximize"}}, r"metric: expected a mapping with a name"),
        (SEARCH, {"metric": {"name": "m", "goal": "max"}}, r"metric\.goal: expected one of minimize, maximize"),
        (SEARCH, {"metric": {"name": "m", "aim": 1}}, r"metric\.aim: W&B knows no such key"),
        (SEARCH, {"metric": {"name": "m", "target": "1"}}, r"metric\.target: expected a number, got '1'"),
        (SEARCH, {"parameters": {"a": {"min": "1e-4", "max": 1}}}, r"parameters\.a\.min: .*'1e-4' \(in YAML 1\.0e-4"),
        (SEARCH, {"parameters": {"a": {"min": 2, "max": 1}}}, r"parameters\.a: expected min below max, got min 2 and"),
        (SEARCH, {"parameters": {"a": {"min": 0, "distribution": "uniform"}}}, r"parameters\.a: uniform needs max"),
        (
            SEARCH,
            {"parameters": {"a": {"min": 0.5, "max": 1, "distribution": "int_uniform"}}},
            r"parameters\.a: int_uniform needs whole numbers, got min 0\.5 and max 1",
        ),
        (
            SEARCH,
            {"parameters": {"a": {"min": 0, "max": 1, "distribution": "log_uniform_values"}}},
            r"parameters\.a\.min: log_uniform_values needs a number above 0, got 0",
        ),
        (
            SEARCH,
            {"parameters": {"a": {"min": 16, "max": 1024, "distribution": "log_uniform"}}},
            r"parameters\.a: the bounds of log_uniform are exponents of e, got min 16 .* log_uniform_values takes the",
        ),
        (
            SEARCH,
            {"parameters": {"a": {"distribution": "normal", "sigma": 0}}},
            r"parameters\.a\.sigma: expected a number above 0, got 0",
        ),
        (
            {**SEARCH, "method": "random"},
            {"parameters": {"a": {"values": [1, 2], "probabilities": [0.5]}}},
            r"parameters\.a\.probabilities: expected a list of 2",
        ),
        (
            {**SEARCH, "method": "random"},
            {"parameters": {"a": {"values": [1, 2], "probabilities": [0.5, 0.6]}}},
            r"parameters\.a\.probabilities: expected a sum of 1, got 1\.1",
        ),
        (
            SEARCH,
            {"parameters": {"a": {"values": [1, 2], "probabilities": [0.5, 0.5]}}},
            r"parameters\.a\.probabilities: only method random",
        ),
        (GRID, {"early_terminate": {"type": "hyperband", "min_iter": 1}}, r"metric: early_terminate needs a metric"),
        (SEARCH, {"early_terminate": {"type": "median"}}, r"early_terminate: expected a mapping with type: hyperband"),
        (SEARCH, {"early_terminate": {"type": "hyperband", "max_iter": 9}}, r"expected min_iter, or max_iter and s"),
        (SEARCH, {"early_terminate": {"type": "hyperband", "min_iter": 0}}, r"early_terminate\.min_iter: .* got 0"),
        (SEARCH, {"early_terminate": {"type": "hyperband", "min_iter": 1, "eta": 1}}, r"early_terminate\.eta: expe"),
        (SEARCH, {"early_terminate": {"type": "hyperband", "min_iter": 1, "r": 1}}, r"early_terminate\.r: W&B knows"),
        (SEARCH, {"early_terminate": {"type": "hyperband", "min_iter": 1, "strict": 1}}, r"early_terminate\.strict"),
    ],
)
def test_load_sweep_refuses_by_key(written: Any, base: dict[str, Any], change: dict[str, Any], message: str) -> None:
    content = {key: value for key, value in {**base, **change}.items() if value is not None}
    with pytest.raises(ValueError, match=rf"sweep\.yaml: .*{message}"):
        load_sweep(written(content))


def test_load_sweep_refuses_what_is_no_mapping_or_not_there(written: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"sweep\.yaml: expected a mapping with method"):
        load_sweep(written([1]))
    (tmp_path / "broken.yaml").write_text("a: [", "utf-8")
    with pytest.raises(ValueError, match=r"broken\.yaml: not YAML"):
        load_sweep(tmp_path / "broken.yaml")
    with pytest.raises(FileNotFoundError, match=r"no sweep file .*absent\.yaml"):
        load_sweep(tmp_path / "absent.yaml")


def test_grid_goes_through_names_in_order_and_the_last_varies_fastest(written: Any) -> None:
    parameters = {
        "seed_everything": {"values": [0, 1]},
        "data.size": {"min": 2, "max": 3},
        "variant": {"values": [{"label": "none"}, {"label": "both", "x.y": True}]},
        "outer": {"parameters": {"q": {"distribution": "q_uniform", "min": 0, "max": 1, "q": 0.5}, "p": {"value": 7}}},
    }
    found = grid(load_sweep(written({**GRID, "parameters": parameters})))
    assert len(found) == 2 * 2 * 2 * 2
    assert found[0] == {"data.size": 2, "outer": {"p": 7, "q": 0.0}, "seed_everything": 0, "variant": {"label": "none"}}
    assert found[1] == {**found[0], "variant": {"label": "both", "x.y": True}}
    assert found[2] == {**found[0], "seed_everything": 1}
    assert found[4] == {**found[0], "outer": {"p": 7, "q": 0.5}}
    assert found[8] == {**found[0], "data.size": 3}
    assert len({str(combination) for combination in found}) == 16


def test_grid_of_another_method_is_refused(written: Any) -> None:
    with pytest.raises(ValueError, match="expected method grid, got bayes"):
        grid(load_sweep(written(SEARCH)))
