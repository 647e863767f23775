"""Samples of compose files, each with another convention."""

# The content of each file by its path; Compose reads the first, unless one has a default name.
SAMPLES: dict[str, dict[str, str]] = {
    "a list of variables, one handed on from outside": {
        "compose.yaml": """\
            services:
              orders_db:
                image: postgres:15
                environment:
                  - POSTGRES_DB=orders
                  - POSTGRES_USER
                  - POSTGRES_PASSWORD=a=b=c
                  - NOBODY_SETS_THIS
                ports: ["5441:5432"]
            """,
        ".env": "POSTGRES_USER=from_file\n",
    },
    "anchors, merge keys and extensions": {
        "docker-compose.yml": """\
            x-db: &db
              image: postgis/postgis:15-3.4
              ports: ["5432"]
            x-env: &env {POSTGRES_USER: u, POSTGRES_PASSWORD: p}
            services:
              a_db:
                <<: *db
                environment: {<<: *env, POSTGRES_DB: a}
                ports: ["127.0.0.1:5501:5432"]
              b_db:
                <<: [*db]
                environment:
                  <<: *env
                  POSTGRES_USER: other
                volumes: [b_data:/var/lib/postgresql/data]
            volumes: {b_data: }
            """,
    },
    "every kind of interpolation": {
        "compose.yml": """\
            services:
              db:
                image: postgres:${VERSION:-15}
                environment:
                  A: ${UNSET}
                  B: ${UNSET-default}
                  C: ${EMPTY-default}
                  D: ${EMPTY:-default}
                  E: ${SET:+alternative}
                  F: ${UNSET:+alternative}
                  G: ${UNSET:-${SET}}
                  H: $$literal $SET
                  I: ${UNSET:-a}b${SET}
                  J: "${UNSET:-}"
                  POSTGRES_DB: ${DB_NAME:-orders}
                  POSTGRES_PASSWORD: ${NOT_SET:?set it}
                ports: ["${DB_PORT:-5441}:5432", "${OTHER:?}:5433"]
            """,
        ".env": "SET=it\nEMPTY=\nVERSION=16\nQUOTED='$SET'\n",
    },
    "ports in every form": {
        "compose.yaml": """\
            services:
              a: {image: postgres, ports: ["5441:5432/tcp", "127.0.0.1:5442:5433", "5434"]}
              b: {image: postgres, ports: ["6001-6003:7001-7003", "[::1]:6010:5432"]}
              c:
                image: postgres
                ports:
                  - {target: 5432, published: "5450"}
                  - target: 5433
                    published: 5451
                    host_ip: 127.0.0.1
                  - target: 5434
              d: {image: postgres, ports: ["6020-6030:5432", "127.0.0.1::5433"]}
              e: {image: postgres, ports: [22:22, 5432]}
            """,
    },
    "volumes in every form": {
        "compose.yaml": """\
            services:
              db:
                image: postgres
                volumes:
                  - data:/var/lib/postgresql/data:rw
                  - ./init:/docker-entrypoint-initdb.d:ro
                  - /absolute:/x
                  - ../above:/above
                  - /anonymous
                  - {type: volume, source: more, target: /more}
                  - {type: bind, source: ./bound, target: /bound}
                  - {type: tmpfs, target: /tmp}
            volumes: {data: , more: {name: another-name}}
            """,
    },
    "an override that Compose finds by itself": {
        "docker-compose.yml": """\
            services:
              db:
                image: postgres:14
                environment: {POSTGRES_DB: orders, POSTGRES_USER: u}
                volumes: [old:/var/lib/postgresql/data]
                command: postgres -c fsync=off
            volumes: {old: , new: }
            """,
        "docker-compose.override.yml": """\
            services:
              db:
                environment: [POSTGRES_USER=v]
                ports: ["5441:5432"]
                volumes: [new:/var/lib/postgresql/data]
                command: ["postgres", "-c", "max_connections=500"]
            """,
    },
    "files of variables": {
        "compose.yaml": """\
            services:
              db:
                image: postgres
                env_file: [db.env, {path: missing.env, required: false}]
                environment: {POSTGRES_USER: stated}
              app: {image: app, env_file: db.env}
            """,
        "db.env": """\
            # comment
            POSTGRES_DB=orders
            POSTGRES_USER=file
            QUOTED="two words"
            SINGLE='$HOME stays'
            export EXPORTED=yes
            """,
    },
    "builds in every form": {
        "compose.yaml": """\
            services:
              a: {build: ./apps/a}
              b: {build: {context: ., dockerfile: apps/b/Dockerfile}}
              c: {build: {context: apps/c}, working_dir: /srv/apps/c, depends_on: [a, b]}
              d:
                build: .
                command: sh -c "python -m apps.d && exit 0"
                depends_on: {a: {condition: service_started}}
            """,
    },
    "one file over another for the same build": {
        "compose.yaml": """\
            services:
              a: {build: {context: ./apps/a}, environment: {X: "1"}, depends_on: [b]}
              b: {image: b}
              c: {image: c}
            """,
        "compose.override.yaml": """\
            services: {a: {build: {dockerfile: Dockerfile.dev}, depends_on: [c], profiles: [dev]}}
            """,
    },
    "names, profiles and numbers": {
        "compose.yaml": """\
            name: shop
            services:
              db:
                image: bitnami/postgresql:15
                container_name: "${PREFIX:-shop}-db"
                profiles: [tools]
                environment: {POSTGRESQL_DATABASE: shop, POSTGRESQL_USERNAME: u, PORT: 5432}
                volumes: [pg:/bitnami/postgresql]
            volumes: {pg: }
            """,
    },
}
