"""What `analysis/search.py` searches, and how it reports what it found."""

import os
import re
from importlib.util import find_spec

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

if not find_spec("optuna") and not os.environ.get("CI"):
    pytest.skip("optuna: pip install -r requirements/search.txt", allow_module_level=True)

import prune
import search_space
import train
from search_page import write_report
from search_results import Results, Trial
from search_trials import Pruning, Training

TRAIN = {
    "learning_rate": st.floats(1e-7, 1, allow_nan=False),
    "epochs": st.integers(0, 100),
    "loss": st.sampled_from(("bce", "focal")),
    "early_stop": st.booleans(),
    "length_buckets": st.booleans(),
    "head_learning_rate": st.none() | st.floats(0, 1, allow_nan=False),
    "model_name": st.text("a中 :#'\"\\-{}[]&*!|>%@`,?~", min_size=1),
}


@settings(max_examples=40)
@given(values=st.fixed_dictionaries({}, optional=TRAIN))
def test_settings_come_through_the_command_line_and_a_config(values, tmp_path_factory):
    parser = train.make_parser()
    values = {"dataset_dir": "data", **values}
    expected = {**vars(train.parse_args(["--dataset_dir", "data"])), **values}
    assert vars(train.parse_args([*search_space.words_of(parser, values)])) == expected
    path = tmp_path_factory.getbasetemp() / "config.yaml"
    path.write_text("".join(search_space.config_lines(parser, values)), encoding="utf-8")
    assert vars(train.parse_args(["--config", str(path)])) == {**expected, "config": str(path)}


def test_several_values_come_through_the_command_line():
    words = ["--dataset_dir=data", "--output_dir=out", "--width_mult_list", "3/4", "1/2"]
    values = vars(prune.parse_args(words))
    assert vars(prune.parse_args([*search_space.words_of(prune.make_parser(), values)])) == values


@pytest.mark.parametrize(("module", "kind"), [(train, Training), (prune, Pruning)])
def test_the_default_spaces_hold_the_defaults(module, kind):
    parser = module.make_parser()
    for name, each in search_space.read_space(parser, kind.space).items():
        default = parser.get_default(name)
        assert search_space.nearest(each, default) == default, name


def test_ranges_and_choices():
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    texts = {"learning_rate": "1e-5..1e-3", "layer_decay": "0.7..1", "epochs": "3..20", "seed": "4", "amp": "none,bf16"}
    assert search_space.read_space(train.make_parser(), texts) == {
        "learning_rate": FloatDistribution(1e-5, 1e-3, log=True),
        "layer_decay": FloatDistribution(0.7, 1.0),
        "epochs": IntDistribution(3, 20),
        "seed": CategoricalDistribution([4]),
        "amp": CategoricalDistribution([None, "bf16"]),
    }


@pytest.mark.parametrize(
    ("text", "value", "expected"),
    [("3..20", 1, 3), ("3..20", 99, 20), ("3..20", 10, 10), ("8,16", 32, 8), ("8,16", 16, 16)],
)
def test_the_start_is_the_nearest_value(text, value, expected):
    [each] = search_space.read_space(train.make_parser(), {"batch_size": text}).values()
    assert search_space.nearest(each, value) == expected


def test_size():
    read = search_space.read_space
    assert search_space.size(read(train.make_parser(), {"epochs": "3..20", "loss": "bce,focal"})) == 36
    assert search_space.size(read(train.make_parser(), {"layer_decay": "0.7..1"})) == float("inf")


# -------------------------------------------------------------------------------------------------------------- results


def results(defaults=(), best=(), same=False):
    trials = [
        Trial(0, {"learning_rate": 3e-5, "loss": "bce"}, "finished", 0.5, 1800, None),
        Trial(1, {"learning_rate": 1e-3, "loss": "<b>focal</b>"}, "finished", 0.4 if same else 0.6, 1200, None),
        Trial(2, {"learning_rate": 1e-1, "loss": "bce"}, "stopped early", 0.1, 600, None),
        Trial(3, {"learning_rate": 1e-1, "loss": "bce"}, "stopped early", None, 0, 2),
        Trial(4, {}, "failed", None, 0, None),
    ]
    gains = [*range(3, 3 + len(defaults))], [*defaults], [*best]
    return Results("tuned_macro_f1", "macro_f1", trials, trials[0 if same else 1], trials[0], 24, "data/dev.txt", gains)


def test_cost():
    cost = "5 trials (2 finished, 1 stopped early, 1 repeated, 1 failed) took 1.00 hours"
    assert results().cost() == cost


@pytest.mark.parametrize(
    ("defaults", "best", "verdict"),
    [
        ((0.5, 0.52), (0.55, 0.56), "The gain is more than the spread over the seeds (2.00)"),
        ((0.5, 0.52), (0.52, 0.53), "The gain is not more than the spread over the seeds (2.00): it may be chance"),
        ((0.5, 0.5), (0.5, 0.6), "The gain is not more than the spread over the seeds (10.00): it may be chance"),
        ((0.5,), (0.9,), "One seed shows no spread: the gain may be chance"),
    ],
)
def test_a_gain_is_compared_with_the_spread(defaults, best, verdict):
    *_, compared, last = results(defaults, best).found()
    assert last == verdict
    gains = [100 * (score - before) for before, score in zip(defaults, best)]
    assert f"({min(gains):+.2f} to {max(gains):+.2f})" in compared


def test_defaults_that_are_best():
    assert [*results(same=True).found()] == [
        "No trial beats the defaults. On the 24 held-out rows, tuned macro F1: 50.00"
    ]


@pytest.mark.parametrize("gains", [((), ()), ((0.5, 0.52), (0.55, 0.56))])
def test_the_page_needs_no_network_and_escapes_texts(tmp_path, gains):
    write_report(tmp_path / "search.html", "<i>data</i>", results(*gains), "python train.py --config 'a<b'")
    page = (tmp_path / "search.html").read_text(encoding="utf-8")
    assert all(link.startswith("#") for link in re.findall(r'(?:src|href)="([^"]+)"', page))
    assert page.count("<script") == 1 and "<i>data" not in page and "<b>focal" not in page and "a&lt;b" in page
    assert "as trial 2" in page and "60.00" in page and page.count("<svg") == 6  # three in each language
    assert ("Compared with the defaults" in page) == bool(gains[0])
