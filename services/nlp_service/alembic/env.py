"""Migrations of the nlp database."""

from services.nlp_service.config import settings
from services.nlp_service.models_db import Base
from services.service_libs.migrations import run_migrations

run_migrations(Base.metadata, settings)
