"""What the documents of deploy/bulk/ name beyond flags: descriptions of clusters, and the plan for a billion rows."""

import re
import shlex
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from conftest import ROOT, load_script
from test_bulk import BULK, needs_ray

PROJECT = sys.modules["project"] = load_script("benchmarks/project.py")
PROJECT.load("benchmarks/workers.py")
RANDOM_MODEL = PROJECT.load("benchmarks/random_model.py")
PLAN = PROJECT.load("benchmarks/billion_rows.py")
FOLDER = ROOT / "deploy" / "bulk"


@needs_ray
def test_ray_accepts_the_description_of_the_cluster(monkeypatch):
    monkeypatch.setenv("RAY_CLIENT_MODE", "0")  # Ray's modules set it when they are imported
    from ray.autoscaler._private.util import prepare_config, validate_config

    monkeypatch.chdir(FOLDER)
    config = yaml.safe_load(Path("cluster.yaml").read_text(encoding="utf-8"))
    validate_config(prepare_config(config))
    for source in config["file_mounts"].values():
        assert Path(source).exists() or source == "../../export/float32"  # the bundle, which the user exports


def test_the_job_of_kubernetes_is_a_command_of_bulk():
    job = yaml.safe_load((FOLDER / "kuberay.yaml").read_text(encoding="utf-8"))
    python, script, *flags = shlex.split(job["spec"]["entrypoint"])
    assert (python, script) == ("python", "/opt/text_cls/deploy/bulk/bulk.py")
    assert BULK.parse_args(flags).actors == 64
    specs = job["spec"]["rayClusterSpec"]
    for spec in (specs["headGroupSpec"], *specs["workerGroupSpecs"]):
        assert spec["template"]["spec"]["containers"][0]["resources"]["limits"]


@pytest.mark.parametrize("language", ["", "_zh"])
def test_the_plan_makes_parts_of_50000_rows(tmp_path, monkeypatch, language):
    document = (ROOT / f"docs/large_corpus{language}.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", document, re.S)
    (tmp_path / "raw").mkdir()
    for name, rows in {"a": range(70_000), "b": range(70_000, 120_001)}.items():
        table = pa.table({"id": rows, "text": [str(i) for i in rows]})
        pq.write_table(table, tmp_path / "raw" / f"{name}.parquet", row_group_size=30_000)
    monkeypatch.chdir(tmp_path)
    exec(re.sub("^   ", "", code, flags=re.M), {})
    (file,) = (tmp_path / "corpus").iterdir()
    assert file.name == "part-0.parquet"
    written = pq.ParquetFile(file)
    assert [written.metadata.row_group(i).num_rows for i in range(written.num_row_groups)] == [50_000, 50_000, 20_001]
    assert written.read(["id"])["id"].to_pylist() == list(range(120_001))


def test_the_rate_of_a_core(tmp_path, monkeypatch, capfd):
    from paddlenlp.transformers import ErnieModel

    size = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    config = ErnieModel.pretrained_init_configuration["ernie-3.0-nano-zh"] | size
    monkeypatch.setitem(ErnieModel.pretrained_init_configuration, "small", config)
    (tmp_path / "duee").mkdir()
    (tmp_path / "duee" / "train.txt").write_text("".join(f"第{i}条新闻\t\n" for i in range(50)), encoding="utf-8")
    for module in (PLAN, RANDOM_MODEL):
        monkeypatch.setattr(module, "DATA", tmp_path)
    monkeypatch.setattr(PLAN, "MODELS", {"small": 40})
    args = PLAN.parse_args(["--models", "small", "--rounds", "1", "--core_hour", "0.5"])
    PLAN.measure_rates(args, tmp_path)
    rows = [line.strip("| ").split(" | ") for line in capfd.readouterr().out.splitlines() if line.startswith("| small")]
    assert [row[0] for row in rows] == ["small, float32", "small, int8"]
    for _, rate, memory, hours, cores, _, cost in rows:
        rate, memory, hours, cores, cost = (
            float(cell.split()[0].replace(",", "")) for cell in (rate, memory, hours, cores, cost)
        )
        assert hours == pytest.approx(1e9 / 3600 / rate, rel=0.05, abs=1)
        assert cores == pytest.approx(hours / 24, abs=1) and cost == pytest.approx(hours / 2, abs=1) and memory > 20


@needs_ray
def test_a_job_of_many_parts(tmp_path, capfd):
    PLAN.measure_parts(PLAN.parse_args(["--parts", "3"]), tmp_path)
    first, again = capfd.readouterr().out.splitlines()
    assert first.startswith("3 parts, first: ") and again.startswith("3 parts, again, with one part missing: ")
