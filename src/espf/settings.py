"""Bootstrap settings of one process: espf.toml, overridden by ESPF_* in the environment.

``espf.default.toml`` holds every setting with its default and an explanation.
"""

import os
import tomllib
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from espf.errors import SettingsError


def _host_and_port(value: str) -> str:
    host, _, port = value.rpartition(":")
    if not host or not port.isdigit() or not 0 <= int(port) <= 65535:
        raise ValueError("expected HOST:PORT, for example 127.0.0.1:8080")
    return value


def _host_and_port_or_off(value: str) -> str:
    return value if value == "off" else _host_and_port(value)


def _http_url(value: str) -> str:
    if not value.startswith(("http://", "https://")):
        raise ValueError("expected http:// or https://, for example https://billing.example.net")
    return value


def _proxies(value: str) -> str:
    for one in _split(value):
        ip_network(one)
    return value


def _split(value: str) -> list[str]:
    return value.replace(",", " ").split()


class Settings(BaseSettings):
    """Where things are. Whatever may change without a restart is not here but in the database."""

    model_config = SettingsConfigDict(
        env_prefix="ESPF_",
        extra="forbid",
        # A line such as ESPF_RULES= in an environment file means that nothing is set.
        env_ignore_empty=True,
    )

    database_url: str = "sqlite:///var/espf.db"
    listen: Annotated[str, AfterValidator(_host_and_port)] = "127.0.0.1:8080"
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    trusted_proxies: Annotated[str, AfterValidator(_proxies)] = "127.0.0.1, ::1"
    metrics_listen: Annotated[str, AfterValidator(_host_and_port_or_off)] = "127.0.0.1:9180"
    log: Path = Path("var/provisioning.log")
    log_format: Literal["text", "json"] = "text"
    traces: bool = False
    key_file: Path = Path("var/espf.key")
    rules: Path | None = None
    billing_url: Annotated[str, AfterValidator(_http_url)] | None = None
    billing_login: str | None = None
    billing_password: SecretStr | None = None
    admin_password: SecretStr | None = None
    stop_grace: float = Field(default=30.0, ge=0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _billing_has_credentials(self) -> Self:
        if self.billing_url and not (self.billing_login and self.billing_password):
            raise ValueError("billing_url needs billing_login and billing_password")
        return self

    @model_validator(mode="after")
    def _certificate_has_a_key(self) -> Self:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key belong together: set both, or none")
        return self

    @property
    def proxies(self) -> list[str]:
        """The addresses and networks of ``trusted_proxies``."""
        return _split(self.trusted_proxies)

    @property
    def address(self) -> tuple[str, int]:
        """Host and port to listen on."""
        return _address(self.listen)

    @property
    def metrics_address(self) -> tuple[str, int] | None:
        """Host and port on which a process tells how it stands; None: nowhere."""
        return None if self.metrics_listen == "off" else _address(self.metrics_listen)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003  (the signature is pydantic's)
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment wins over the file."""
        return (init_settings, env_settings, TomlConfigSettingsSource(settings_cls, _file()))


def _address(host_and_port: str) -> tuple[str, int]:
    host, _, port = host_and_port.rpartition(":")
    return host.strip("[]"), int(port)


def _file() -> Path:
    return Path(os.environ.get("ESPF_SETTINGS", "espf.toml"))


def load() -> Settings:
    """Read the settings. Raises SettingsError that names each wrong one."""
    path = _file()
    if "ESPF_SETTINGS" in os.environ and not path.is_file():
        raise SettingsError(f"ESPF_SETTINGS: there is no file {path}")
    try:
        return Settings()
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"{path}: {error}") from None
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, problem['loc']))}: {problem['msg'].removeprefix('Value error, ')}"
            for problem in error.errors()
        )
        raise SettingsError(f"settings ({path} or ESPF_*): {problems}") from None
