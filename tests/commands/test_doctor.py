import json

import torch
from typer.testing import CliRunner

from spadecli.cli.app import app
from spadecli.commands.doctor.command import doctor
from spadecli.core.version import VERSION


def test_doctor_names_versions_and_devices():
    found = {f.subject: f.found for f in doctor()}
    assert VERSION in found["spade"]
    assert torch.__version__ in found["torch"]
    assert f"{torch.get_num_threads()} threads" in found["cpu"]
    assert ("cuda:0" in found) == torch.cuda.is_available()
    assert "GB free" in found["disk"]


def test_doctor_tells_whether_there_are_kernels(monkeypatch):
    monkeypatch.setenv("SPADE_NATIVE", "0")
    finding = next(f for f in doctor() if f.subject == "kernels")
    assert finding.found.startswith("none")
    assert "compiler" in finding.hint


def test_a_missing_package_comes_with_its_install_line(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    finding = next(f for f in doctor() if f.subject == "tensorboard")
    assert finding.found.startswith("not installed")
    assert finding.hint == "pip install tensorboard"


def test_table_and_json_tell_the_same():
    shown = CliRunner().invoke(app, ["doctor"], env={"COLUMNS": "300"})
    data = CliRunner().invoke(app, ["doctor", "--json"])
    assert shown.exit_code == data.exit_code == 0
    for finding in json.loads(data.stdout)["findings"]:
        assert finding["subject"] in shown.stdout


def test_doctor_lists_what_runs_and_builds_converted_weights():
    found = {f.subject: f for f in doctor()}
    for name in ("onnx", "onnxruntime", "tensorrt", "tensorrt-rtx"):
        assert found[name].hint.startswith("pip install") == ("not installed" in found[name].found)
    assert "CPU" in found["onnxruntime"].found
