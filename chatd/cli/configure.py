"""``chatd init`` and ``chatd config``."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import click

from chatd import configuration
from chatd.cli.common import Failed, find_config, load_settings, place_options, program
from chatd.settings import CONFIG_NAME, Settings


@click.command()
@click.argument("directory", metavar="[DIR]", type=click.Path(path_type=Path), default=Path("data"))
def init(directory: Path) -> None:
    """Make a data directory with an annotated chatd.toml in it (default: ./data). Nothing is overwritten."""
    directory = directory.absolute()
    path = directory / CONFIG_NAME
    default = f"data_dir = {configuration.toml_value(Settings().server.data_dir)}\n"
    text = configuration.default_toml().replace(default, f"data_dir = {configuration.toml_value(str(directory))}\n")
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as exc:
        raise Failed(f"{exc.filename} is there already and stays as it is; name another directory") from exc
    except OSError as exc:
        raise Failed(f"{directory}: {exc.strerror}") from exc
    with open(fd, "w", encoding="utf-8") as file:
        file.write(text)
    click.echo(f"Made {path}: every setting with its default and its meaning.")
    click.echo("Next: change what you want to, then")
    click.echo(f"  {program()} serve --data-dir {shlex.quote(str(directory))}")


@click.group()
def config() -> None:
    """Look at the configuration."""


@config.command()
@click.argument("file", metavar="[FILE]", type=click.Path(path_type=Path), required=False)
def check(file: Path | None) -> None:
    """Say whether a configuration file is right (default: chatd.toml of ./data). Exit code 78 if not."""
    from chatd import jwt_keys
    from chatd.limits import parse_networks
    from chatd.transport.tls import Certificate, require_encryption

    path = find_config(file, None)
    settings = load_settings(file, None)
    parse_networks(settings.server.trusted_proxies)
    require_encryption(settings.server)
    if settings.server.tls_certificate:
        Certificate(settings.server)
    accounts = settings.accounts
    if accounts.jwt_keys:
        jwt_keys.load(Path(accounts.jwt_keys), audience=accounts.jwt_audience, issuer=accounts.jwt_issuer)
    for line in configuration.strays():
        click.echo(line, err=True)
    if path is None:
        missing = Path(settings.server.data_dir) / CONFIG_NAME
        click.echo(f"{missing} is not there: the defaults and the environment hold, and they are right.")
    else:
        click.echo(f"{path} is right.")


@config.command()
def default() -> None:
    """Print the annotated default configuration."""
    click.echo(configuration.default_toml(), nl=False)


@config.command()
@place_options
def show(config: Path | None, data_dir: str | None) -> None:
    """Print the settings in force, from the file, the environment and the options. Secrets are starred."""
    click.echo(configuration.show_toml(load_settings(config, data_dir)), nl=False)
