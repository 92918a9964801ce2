"""Where Alembic begins: it migrates through the connection that `services.db.schema` hands over."""

from alembic import context

context.configure(**context.config.attributes["configure"])
with context.begin_transaction():
    context.run_migrations()
