"""The compose files of a monorepo of strangers."""

from collections.abc import Mapping
from typing import Any

from tests.support.strangers.switches import ComposeFiles, Ports, Repository, Stranger

Entry = dict[str, Any]
SCRIPTS = "infra/create-databases"


def files(repository: Repository) -> dict[str, str]:
    """Return the content of each file, by its path relative to the root."""
    servers, applications = _servers(repository), _applications(repository)
    volumes = {volume: None for server in servers.values() for volume in _volumes(server)}
    databases = {"services": servers, "volumes": volumes}
    rest: Entry = {"services": applications}
    layouts: dict[ComposeFiles, dict[str, Entry]] = {
        ComposeFiles.REGULAR: {
            "docker-compose.yml": {"services": servers | applications, "volumes": volumes}
        },
        ComposeFiles.INCLUDED: {
            "compose.yaml": {"include": ["infra/databases.yml"], **rest},
            "infra/databases.yml": databases,
        },
        ComposeFiles.SEVERAL: {
            "docker-compose.infrastructure.yml": databases,
            "docker-compose.services.yml": rest,
        },
    }
    shared = repository.services[: repository.sharing]
    sql = "".join(f'CREATE DATABASE "{service.database}";\n' for service in shared)
    texts = {path: _dump(content) for path, content in layouts[repository.compose_files].items()}
    return texts | ({f"{SCRIPTS}/databases.sql": sql} if sql else {})


def stated(repository: Repository) -> list[str]:
    """Return the files with the servers; empty if Compose loads them by default."""
    is_found = repository.compose_files is not ComposeFiles.SEVERAL
    return [] if is_found else ["docker-compose.infrastructure.yml"]


def _servers(repository: Repository) -> dict[str, Entry]:
    servers = {
        repository.compose_service(service): _server(repository, service)
        for service in repository.services
    }
    if repository.bystanders:
        servers["keycloak-postgres"] = {
            "image": "postgres:15",
            "environment": {"POSTGRES_DB": "keycloak", "POSTGRES_PASSWORD": "keycloak"},
            "volumes": ["keycloak:/var/lib/postgresql/data"],
        }
        servers["redis"] = {"image": "redis:7", "ports": ["6379:6379"]}
    return servers


def _server(repository: Repository, service: Stranger) -> Entry:
    name = repository.compose_service(service)
    environment = {
        "POSTGRES_USER": "${HULEEDU_DB_USER}",
        "POSTGRES_PASSWORD": "${HULEEDU_DB_PASSWORD}",
        "POSTGRES_DB": service.database,
    }
    volumes = [f"{repository.volume(service)}:/var/lib/postgresql/data"]
    if repository.shares(service):
        del environment["POSTGRES_DB"]
        # A path is relative to the directory of the compose file.
        is_included = repository.compose_files is ComposeFiles.INCLUDED
        scripts = SCRIPTS.removeprefix("infra/") if is_included else SCRIPTS
        volumes.append(f"./{scripts}:/docker-entrypoint-initdb.d:ro")
    return {
        "image": "postgres:15",
        **_named(repository, name),
        "environment": _environment(repository, environment),
        "ports": [_port(repository, service)],
        "volumes": volumes,
    }


def _port(repository: Repository, service: Stranger) -> object:
    port = repository.port(service)
    if repository.port_style is Ports.LONG:
        return {"target": 5432, "published": str(port), "protocol": "tcp"}
    return repository.port_style.format(port=port, capitals=service.name.upper())


def _applications(repository: Repository) -> dict[str, Entry]:
    roles = ("", "_worker", "_beat")[: repository.containers]
    applications = {
        service.directory_name + role: _application(repository, service, role)
        for service in repository.services
        for role in roles
    }
    if repository.bystanders:
        applications["web"] = {"image": "nginx:1", "ports": ["8080:80"]}
    return applications


def _application(repository: Repository, service: Stranger, role: str) -> Entry:
    server = repository.compose_service(service)
    environment = {"LOG_LEVEL": "info"}
    if repository.containers_know:
        login = "${HULEEDU_DB_USER}:${HULEEDU_DB_PASSWORD}"
        address = f"{server}:5432/{service.database}"
        environment[service.url_variable] = f"{service.url_scheme}://{login}@{address}"
    build: object = f"./{service.directory}"
    if repository.builds_from_root:
        build = {"context": ".", "dockerfile": f"{service.directory}/Dockerfile"}
    return {
        "build": build,
        **_named(repository, service.directory_name + role),
        "environment": _environment(repository, environment),
        "depends_on": [server],
    }


def _named(repository: Repository, name: str) -> Entry:
    return {"container_name": f"huleedu-{name}"} if repository.fixed_names else {}


def _environment(repository: Repository, variables: Mapping[str, str]) -> object:
    if repository.lists:
        return [f"{name}={value}" for name, value in variables.items()]
    return dict(variables)


def _volumes(server: Entry) -> list[str]:
    names = [volume.partition(":")[0] for volume in server.get("volumes", [])]
    return [name for name in names if not name.startswith(".")]


def _dump(content: Entry) -> str:
    import yaml

    return str(yaml.safe_dump(content, sort_keys=False))
