"""Patterns for the names of environment variables that hold URLs."""

import re

URL_NAME = re.compile(
    r"(database|db|postgres\w*|pg|sqlalchemy|sql)\w*(url|uri|dsn)|^(dsn|\w+_dsn)$|connection_string",
    re.IGNORECASE,
)
# Names of URLs that are not of a PostgreSQL database.
OTHERS = re.compile(
    r"(^|_)(SENTRY|REDIS|RABBIT|RABBITMQ|AMQP|BROKER|KAFKA|CELERY|MONGO|MONGODB|S3|MINIO|ELASTIC"
    r"|ELASTICSEARCH|CLICKHOUSE|MYSQL|HTTP|HTTPS|CACHE)(_|$)"
)
