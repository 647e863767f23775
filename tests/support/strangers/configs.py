"""The variants of `config.py`."""

from tests.support.strangers.switches import Config, Paths, Repository, Stranger

REGULAR_CONFIG = """\
import os
from urllib.parse import quote


class Settings:
    @property
    def DATABASE_URL(self) -> str:
        env_url = os.getenv("{variable}")
        if env_url:
            return env_url
        environment = os.getenv("{environment}", "development").lower()
        if environment == "production":
            prod_host = os.getenv("HULEEDU_PROD_DB_HOST")
            prod_port = os.getenv("HULEEDU_PROD_DB_PORT", "5432")
            prod_password = os.getenv("HULEEDU_PROD_DB_PASSWORD")
            if not all([prod_host, prod_password]):
                raise ValueError(
                    "Production environment requires HULEEDU_PROD_DB_HOST and "
                    "HULEEDU_PROD_DB_PASSWORD environment variables"
                )
            return self._url(prod_password, f"{{prod_host}}:{{prod_port}}")
        db_password = os.getenv("HULEEDU_DB_PASSWORD")
        if not os.getenv("HULEEDU_DB_USER") or not db_password:
            raise ValueError(
                "Missing required database credentials. Please ensure HULEEDU_DB_USER and "
                "HULEEDU_DB_PASSWORD are set in your .env file."
            )
        return self._url(db_password, "localhost:{port}")

    def _url(self, password: str, address: str) -> str:
        user = quote(os.getenv("HULEEDU_DB_USER", "huleedu_user"), safe="")
        password = quote(password, safe="")
        return f"{scheme}://{{user}}:{{password}}@{{address}}/{database}"


settings = Settings()
"""
MODULE_CONFIG = """\
import os

ENVIRONMENT = os.environ.get("{environment}", "development")
DATABASE_URL = os.environ["{variable}"]
"""
ALIAS_CONFIG = """\
from pydantic import Field, PostgresDsn
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_file=".env", extra="ignore")

    environment: str = Field(default="development", validation_alias="{environment}")
    database_url: PostgresDsn = Field(validation_alias="{variable}")


settings = Settings()
"""
PREFIX_CONFIG = """\
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="{prefix}", extra="ignore")

    {field}: str
    echo: bool = False


settings = Settings()
"""
CONFIGS = {
    Config.REGULAR: REGULAR_CONFIG,
    Config.MODULE: MODULE_CONFIG,
    Config.PYDANTIC_ALIAS: ALIAS_CONFIG,
    Config.PYDANTIC_PREFIX: PREFIX_CONFIG,
}
LOAD_ENV_FILE = """\
from dotenv import find_dotenv, load_dotenv

load_dotenv(find_dotenv())

"""


def files(service: Stranger, repository: Repository) -> dict[str, str]:
    """Return the content of the settings files, by their paths relative to its directory."""
    if service.config is Config.NONE:
        return {}
    prefix, field = prefix_and_field(service)
    text = CONFIGS[service.config].format(
        variable=service.url_variable,
        environment=service.environment_variable,
        scheme=service.url_scheme,
        database=service.database,
        port=repository.port(service),
        prefix=prefix,
        field=field,
    )
    text = (LOAD_ENV_FILE if service.loads_env_file else "") + text
    folder = f"src/{service.name}/" if service.paths is Paths.SOURCES else ""
    if not service.is_package:
        return {f"{folder}config.py": text}
    name = exported(service)
    return {
        f"{folder}config/__init__.py": f'from .settings import {name}\n\n__all__ = ["{name}"]\n',
        f"{folder}config/settings.py": text,
    }


def prefix_and_field(service: Stranger) -> tuple[str, str]:
    """Split a variable into the prefix and the field of pydantic-settings."""
    field = "db_dsn" if service.url_variable.endswith("DB_DSN") else "database_url"
    return service.url_variable[: -len(field)], field


def exported(service: Stranger) -> str:
    """Return the name that its env.py imports."""
    return "DATABASE_URL" if service.config is Config.MODULE else "settings"
