"""The command line as a person meets it: start-up, help, exit codes, variables, completion."""

import json
import os
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from spadecli.cli import app as cli
from spadecli.core.errors import BackendUnavailable, PartialFailure, UserError
from spadecli.core.version import VERSION

HEAVY = ("torch", "h5py", "PIL", "matplotlib", "scipy", "jinja2")


def spade(*args: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "spadecli", *args]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | env, timeout=60, check=False)


def test_help_loads_nothing_heavy():
    code = (
        "import sys\n"
        "from spadecli.cli.app import app\n"
        "try:\n    app(['--help'], prog_name='spade')\nexcept SystemExit:\n    pass\n"
        f"print([m for m in {HEAVY} if m in sys.modules], len(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    loaded, _, count = done.stderr.strip().rpartition(" ")
    assert loaded == "[]"
    assert int(count) < 900, "spade --help imports much more than it did"
    assert "Example: spade render masks/ --samples 4" in done.stdout
    assert "env var" not in done.stdout


def test_version_goes_to_stdout():
    done = spade("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"spade {VERSION}\n", "")


@pytest.mark.parametrize("command", [c.__name__ for c in cli.COMMANDS])
def test_every_help_opens_with_a_sentence_and_an_example(command):
    function = next(c for c in cli.COMMANDS if c.__name__ == command)
    paragraphs = [" ".join(p.split()) for p in (function.__doc__ or "").split("\n\n")]
    assert paragraphs[0].endswith(".")
    assert any(p.startswith(f"Example: spade {command.replace('_', '-')}") for p in paragraphs[1:])
    shown = CliRunner().invoke(cli.app, [command.replace("_", "-"), "-h"])
    assert shown.exit_code == 0
    for option in ("--quiet", "--verbose", "--json"):
        assert option in shown.stdout
    assert ("--dry-run" in shown.stdout) == (command not in {"doctor", "inspect"}), "for what writes something"
    names = ("QUIET", "VERBOSE", "AS_JSON", "DRY_RUN")
    assert not any(f"SPADE_{command.upper()}_{name}" in shown.stdout for name in names)


def test_unknown_command_exits_2_on_stderr():
    done = spade("rendr")
    assert done.returncode == 2
    assert "rendr" in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UserError("bad.png: value 77"), 2),
        (BackendUnavailable("no tensorrt"), 3),
        (PartialFailure("1 of 3 failed"), 4),
        (KeyboardInterrupt(), 130),
        (ZeroDivisionError("a bug"), 1),
    ],
)
def test_exceptions_become_exit_codes(monkeypatch, capsys, error, code):
    def fail(**_: object) -> None:
        raise error

    monkeypatch.setattr(cli, "app", fail)
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == code
    captured = capsys.readouterr()
    assert captured.out == ""
    if code in {1, 2, 3, 4}:
        assert str(error) in captured.err


def test_errors_tell_every_problem_and_the_hint_also_as_json(monkeypatch, capsys):
    def fail(**_: object) -> None:
        raise UserError("masks: 2 bad files", problems=["a.png: empty", "b.png: value 77"], hint="spade inspect masks")

    monkeypatch.setattr(cli, "app", fail)
    with pytest.raises(SystemExit):
        cli.main()
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "error: masks: 2 bad files",
        "  - a.png: empty",
        "  - b.png: value 77",
        "hint: spade inspect masks",
    ]
    monkeypatch.setattr(sys, "argv", ["spade", "--json"])
    with pytest.raises(SystemExit):
        cli.main()
    report = json.loads(capsys.readouterr().err)
    assert report["problems"] == ["a.png: empty", "b.png: value 77"]


@pytest.mark.parametrize(
    ("words", "env", "part"),
    [
        (("render", "--samples", "2", "--bogus"), {}, "No such option: --bogus"),
        (("render", "--format", "gif"), {}, "'--format': 'gif' is not one of 'png', 'jpeg', 'jpg', 'webp'"),
        (("render",), {"SPADE_RENDER_SAMPLES": "x"}, "environment variable SPADE_RENDER_SAMPLES=x: "),
        (("render", "--seed", "x"), {}, "Invalid value for '--seed': expected a whole number"),
        (("rendr",), {}, "No such command 'rendr'"),
    ],
)
def test_usage_errors_look_like_all_others(words, env, part):
    done = spade(*words, **env)
    assert (done.returncode, done.stdout) == (2, "")
    first, hint = done.stderr.splitlines()
    assert first.startswith("error: ")
    assert part in first
    assert hint.endswith("-h lists what can be given")
    done = spade(*words, "--json", **env)
    if words[0] == "render":
        assert part in json.loads(done.stderr)["error"]
    assert (done.returncode, done.stdout) == (2, "")


def test_a_flag_that_is_wrong_does_not_name_the_variable_that_it_overrides():
    done = spade("render", "--samples", "x", SPADE_RENDER_SAMPLES="3")
    assert done.returncode == 2
    assert "SPADE_RENDER" not in done.stderr


def test_spade_alone_prints_its_help():
    done = spade()
    assert (done.returncode, done.stderr) == (2, "")
    assert "Example: spade render masks/ --samples 4" in done.stdout
    assert "env var" not in done.stdout


def test_variables_stand_in_for_options_and_lose_to_them(tmp_path):
    by_variable = spade("examples", "-o", str(tmp_path), "--json", SPADE_EXAMPLES_WEIGHTS=str(tmp_path / "variable"))
    assert by_variable.returncode == 2
    assert f"{tmp_path / 'variable'}: no such weights file" in json.loads(by_variable.stderr)["error"]
    by_flag = spade(
        "examples", "-o", str(tmp_path), "-w", str(tmp_path / "flag"), SPADE_EXAMPLES_WEIGHTS=str(tmp_path / "variable")
    )
    assert f"{tmp_path / 'flag'}: no such weights file" in by_flag.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shell_completion_knows_the_commands(shell):
    typed = {"COMP_WORDS": "spade exa", "COMP_CWORD": "1", "_TYPER_COMPLETE_ARGS": "spade exa"}
    done = spade(_SPADE_COMPLETE=f"complete_{shell}", _TYPER_COMPLETE_FISH_ACTION="get-args", **typed)
    assert "examples" in done.stdout


def test_a_missing_argument_is_named():
    done = spade("inspect")
    assert done.returncode == 2
    assert "Missing argument 'PATH'" in done.stderr
