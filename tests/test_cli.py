"""The command line: fixed names, exit codes, what is printed where, and that nothing secret is printed twice."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest

from gateway import __version__
from gateway.cli import main
from gateway.config import Config
from gateway.datadir import DataDirBusy, open_data_dir
from gateway.welcome import first_key_banner
from tests.command import run

CONFIG = """\
[server]
data_dir = "records"
[providers.openai]
kind = "openai"
base_url = "https://api.openai.com/v1"
api_key_env = "OPENAI_API_KEY"
[providers.groq]
kind = "openai"
base_url = "https://api.groq.com/openai/v1"
api_key_env = "GROQ_API_KEY"
[[models]]
id = "openai/gpt-4o"
context_window = 128000
offers = [
  { provider = "openai", model = "gpt-4o", input = "2.50", output = "10.00" },
  { provider = "groq", model = "gpt-4o", input = "0.075", output = "1" },
]
"""


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    monkeypatch.delenv("GROQ_API_KEY", raising=False)
    (tmp_path / "config.toml").write_text(CONFIG)
    return str(tmp_path / "config.toml")


def commands(group: click.Group, *path: str) -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = [path]
    for name, command in group.commands.items():
        found += commands(command, *path, name) if isinstance(command, click.Group) else [(*path, name)]
    return found


def test_the_names_are_fixed() -> None:
    assert sorted(commands(main)) == [
        (),
        ("accounts",),
        ("accounts", "create"),
        ("accounts", "list"),
        ("accounts", "resume"),
        ("accounts", "suspend"),
        ("backup",),
        ("check",),
        ("credits",),
        ("credits", "grant"),
        ("credits", "show"),
        ("keys",),
        ("keys", "create"),
        ("keys", "list"),
        ("keys", "revoke"),
        ("ledger",),
        ("ledger", "export"),
        ("ledger", "verify"),
        ("models",),
        ("serve",),
        ("usage",),
    ]


@pytest.mark.parametrize("path", [path for path in commands(main) if path], ids=" ".join)
def test_every_command_on_the_data_folder_has_the_common_options(path: tuple[str, ...]) -> None:
    command: click.Command = main
    for name in path:
        assert isinstance(command, click.Group)
        command = command.commands[name]
    if isinstance(command, click.Group) or path in {("check",), ("models",), ("serve",)}:
        return
    options = {option for parameter in command.params for option in parameter.opts}
    assert {"--config", "--data-dir", "--json"} <= options


@pytest.mark.parametrize("path", commands(main), ids=" ".join)
def test_every_help_has_a_worked_example(path: tuple[str, ...]) -> None:
    result = run(*path, "--help")
    assert result.exit_code == 0
    assert " ".join(("gateway", *path)) in result.stdout.partition("Example:")[2]


def test_a_key_lives_from_create_over_list_to_revoke(config: str, tmp_path: Path) -> None:
    made = run("keys", "create", "--name", "laptop", "--config", config, "--json")
    key = json.loads(made.stdout)
    assert list(key) == ["id", "key"]
    assert key["id"].startswith("key_")
    assert key["key"].startswith("sk-gw-")
    assert (tmp_path / "records" / "gateway.db").exists()  # beside the file, not in the working folder

    shown = run("keys", "list", "--config", config)
    assert [part in shown.stdout for part in (key["id"], "laptop", "operator", "live")] == [True] * 4
    assert key["key"] not in shown.stdout
    (listed,) = json.loads(run("keys", "list", "--config", config, "--json").stdout)
    assert (listed["id"], listed["name"], listed["revoked_at"]) == (key["id"], "laptop", None)

    assert run("keys", "revoke", key["id"], "--config", config).stdout == f"{key['id']} is revoked\n"
    again = run("keys", "revoke", key["id"], "--config", config)
    assert (again.exit_code, again.stdout) == (0, f"{key['id']} was revoked before\n")
    assert "revoked 20" in run("keys", "list", "--config", config).stdout


def test_the_secret_alone_is_on_standard_output(tmp_path: Path) -> None:
    result = run("keys", "create", "--name", "laptop", "--data-dir", str(tmp_path))
    (secret,) = result.stdout.splitlines()
    assert secret.startswith("sk-gw-")
    assert "laptop" in result.stderr
    assert secret not in result.stderr


def test_data_dir_wins_over_the_configuration(config: str, tmp_path: Path) -> None:
    run("keys", "create", "--name", "x", "--config", config, "--data-dir", str(tmp_path / "there"))
    assert (tmp_path / "there" / "gateway.db").exists()
    assert not (tmp_path / "records").exists()


def test_a_key_is_revocable_while_the_catalogue_is_wrong(config: str) -> None:
    key_id = json.loads(run("keys", "create", "--name", "x", "--config", config, "--json").stdout)["id"]
    Path(config).write_text(CONFIG.replace("2.50", "free of charge"))
    assert run("check", "--config", config).exit_code == 2
    assert run("keys", "revoke", key_id, "--config", config).exit_code == 0


def test_an_unknown_key_exits_1(tmp_path: Path) -> None:
    run("keys", "create", "--name", "x", "--data-dir", str(tmp_path))
    result = run("keys", "revoke", "key_none", "--data-dir", str(tmp_path))
    assert (result.exit_code, result.stdout) == (1, "")
    assert "there is no key 'key_none'" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("keys", "create", "--name", "x", "--config", "{tmp}/none.toml"), "none.toml: No such file"),
        (("keys", "create", "--name", "x", "--config", "{tmp}/broken.toml"), "broken.toml: "),
        (("keys", "create", "--name", "x", "--config", "{tmp}/number.toml"), "server.data_dir must be a string"),
        (("keys", "create", "--name", "", "--data-dir", "{tmp}/data"), "a key's name needs"),
        (("keys", "list", "--data-dir", "{tmp}/typo"), "there is no data folder here"),
        (("keys", "revoke", "key_1", "--data-dir", "{tmp}/typo"), "there is no data folder here"),
        (("keys", "create", "--name", "x", "--data-dir", "{tmp}/damaged"), "holds 3 bytes, not 32"),
        (("check", "--config", "{tmp}/none.toml"), "none.toml"),
        (("models", "--config", "{tmp}/unpriced.toml"), "unpriced.toml"),
        (("serve", "--config", "{tmp}/unpriced.toml"), "unpriced.toml"),
        (("serve", "--bind", "8080"), "'8080' is not HOST:PORT"),
        (("serve", "--bind", "localhost:99999"), "is not HOST:PORT"),
    ],
)
def test_what_cannot_be_used_exits_2_and_says_why(tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    (tmp_path / "broken.toml").write_text("[server\n")
    (tmp_path / "number.toml").write_text("[server]\ndata_dir = 7\n")
    (tmp_path / "unpriced.toml").write_text(CONFIG.replace('input = "2.50", ', ""))
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "pepper").write_bytes(b"abc")
    result = run(*(part.format(tmp=tmp_path) for part in arguments))
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr


def test_check_counts_what_it_found(config: str) -> None:
    result = run("check", "--config", config)
    assert result.exit_code == 0
    assert result.stdout.startswith(f"{config}: ok, ")


def test_models_shows_every_offer_with_its_price_and_state(config: str) -> None:
    lines = [line.split() for line in run("models", "--config", config).stdout.splitlines()]
    assert lines[0] == ["MODEL", "CONTEXT", "PROVIDER", "STATE", "INPUT", "OUTPUT"]
    assert [line for line in lines if line[0] == "openai/gpt-4o"] == [
        ["openai/gpt-4o", "128000", "openai", "enabled", "2.5", "10"],
        ["openai/gpt-4o", "128000", "groq", "disabled", "0.075", "1"],
    ]


@dataclass
class FakeApp:
    """Stands where `gateway.app` does: notes what it was asked to serve."""

    result: int | Exception
    calls: list[dict[str, Any]] = field(default_factory=list)

    def serve(self, config: Config, **rest: Any) -> int:
        self.calls.append(rest)
        assert "openai/gpt-4o" in config.models
        if isinstance(self.result, Exception):
            raise self.result
        return self.result


@pytest.mark.parametrize(
    ("extra", "folder", "binds"),
    [
        ((), "{tmp}/records", None),
        (("--data-dir", "elsewhere"), "elsewhere", None),
        (("--bind", "[::1]:0", "--bind", "localhost:80"), "{tmp}/records", ("[::1]:0", "localhost:80")),
    ],
)
def test_serve_hands_over_config_folder_and_binds(
    config: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    extra: tuple[str, ...],
    folder: str,
    binds: tuple[str, ...] | None,
) -> None:
    app = FakeApp(3)
    monkeypatch.setitem(sys.modules, "gateway.app", SimpleNamespace(serve=app.serve))
    assert run("serve", "--config", config, *extra).exit_code == 3
    assert app.calls == [{"config_path": config, "data_dir": Path(folder.format(tmp=tmp_path)), "binds": binds}]


def test_a_busy_folder_ends_serve_with_2(config: str, monkeypatch: pytest.MonkeyPatch) -> None:
    app = FakeApp(DataDirBusy("data: another gateway serves from this data folder"))
    monkeypatch.setitem(sys.modules, "gateway.app", SimpleNamespace(serve=app.serve))
    result = run("serve", "--config", config)
    assert (result.exit_code, result.stderr) == (2, "data: another gateway serves from this data folder\n")


def test_keys_work_while_another_process_holds_the_folder(tmp_path: Path) -> None:
    with open_data_dir(tmp_path).locked():
        assert run("keys", "create", "--name", "x", "--data-dir", str(tmp_path)).exit_code == 0


def test_python_m_gateway_is_the_same_command() -> None:
    command = [sys.executable, "-m", "gateway", "--version"]
    assert (
        subprocess.run(command, capture_output=True, text=True, check=True).stdout
        == f"gateway, version {__version__}\n"
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ("keys", "create", "--name", "y"),
        ("keys", "list"),
        ("accounts", "create", "--name", "acme"),
        ("accounts", "list"),
        ("credits", "grant", "--account", "operator", "--usd", "1"),
        ("credits", "show", "--account", "operator"),
        ("usage", "--by", "key"),
        ("ledger", "verify"),
        ("ledger", "export"),
        ("backup", "{tmp}/backup.db"),
    ],
    ids=" ".join,
)
def test_commands_on_the_data_folder_load_neither_the_server_nor_the_catalogue(
    tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    code = "import sys; from gateway.cli import main; main(sys.argv[1:], standalone_mode=False); print(*sys.modules)"
    run("keys", "create", "--name", "x", "--data-dir", str(tmp_path))
    given = [part.format(tmp=tmp_path) for part in arguments]
    command = [sys.executable, "-c", code, *given, "--data-dir", str(tmp_path)]
    loaded = set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
    assert "gateway.store.schema" in loaded
    assert loaded.isdisjoint(
        {"trio", "quart", "hypercorn", "httpx", "sqlite_utils", "gateway.configfile", "gateway.app"}
    )


def test_the_first_key_banner_is_a_curl_line_to_paste() -> None:
    banner = first_key_banner("sk-gw-abc", "http://127.0.0.1:8080")
    script = banner[banner.index("curl") :].replace("curl", "printf '%s\\n'", 1)
    words = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout.splitlines()
    assert words[:2] == ["-N", "http://127.0.0.1:8080/v1/chat/completions"]
    assert "Authorization: Bearer sk-gw-abc" in words
    body = json.loads(words[-1])
    assert (body["model"], body["stream"], body["messages"][0]["role"]) == ("sim/words", True, "user")
