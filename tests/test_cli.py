"""The command line: what it says when asked wrongly, and with which status it ends."""

from __future__ import annotations

import pytest

from dgl_lib import cli, study
from dgl_lib.errors import UserError


def outcome(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str
) -> tuple[int, str, str]:
    monkeypatch.setattr("sys.argv", ["dgl", *arguments])
    with pytest.raises(SystemExit) as end:
        cli.main()
    out, err = capsys.readouterr()
    return int(end.value.code or 0), out, err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["study"], "Missing argument 'PROFILE'"),
        (["bogus"], "No such command 'bogus'"),
        (["study", "quick", "--fast"], "No such option"),
    ],
)
def test_usage_errors(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    status, out, err = outcome(monkeypatch, capsys, *arguments)
    assert status == 2 and said in err and not out and "Traceback" not in err


def test_help_shows_examples(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = outcome(monkeypatch, capsys, "--help")
    assert status == 0
    assert "python -m dgl_lib study creatures --set epochs=8" in out
    for command in ("study", "train", "evaluate", "notebooks", "readme"):
        assert command in out
    assert outcome(monkeypatch, capsys, "study", "--help")[0] == 0


def test_a_users_mistake_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise UserError("epochs: 0 given, 1 or more allowed")

    monkeypatch.setattr(study, "run", fail)
    assert outcome(monkeypatch, capsys, "study", "quick") == (2, "", "error: epochs: 0 given, 1 or more allowed\n")


def test_an_interrupt_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(study, "run", interrupt)
    status, _, err = outcome(monkeypatch, capsys, "study", "quick")
    assert status == 130 and "Traceback" not in err and "takes it up" in err


def test_what_reaches_the_library(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    asked = {}

    def run(profile: str, settings: tuple[str, ...], **options: object) -> str:
        asked.update(options, profile=profile, settings=settings)
        return "results/mine"

    monkeypatch.setattr(study, "run", run)
    arguments = ("train", "creatures", "--set", "epochs=2", "--set", "profile=mine", "--quiet")
    assert outcome(monkeypatch, capsys, *arguments)[0] == 0
    assert asked == {
        "profile": "creatures",
        "settings": ("epochs=2", "profile=mine"),
        "until": "train",
        "progress": False,
    }
