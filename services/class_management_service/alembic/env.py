"""Migrations of the class_management database."""

from services.class_management_service.config import settings
from services.class_management_service.models_db import Base
from services.service_libs.migrations import run_migrations

run_migrations(Base.metadata, settings)
