"""${message}

Made from the declarations and the database of ${create_date.date()}: read it before it runs. A column
that was renamed is dropped here, with its values, and added anew: make that one `op.alter_column`.
A new column that is not nullable needs a `server_default` where there are rows.
"""

import sqlalchemy as sa
from alembic import op
% if imports:
${imports}
% endif

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = None
depends_on = None


def has_table(name: str, schema: str | None = None) -> bool:
    """A new database has no table yet: it gets it afterwards, as it is declared by then."""
    return sa.inspect(op.get_bind()).has_table(name, schema=schema)


def upgrade() -> None:
    ${upgrades if upgrades else "pass"}


def downgrade() -> None:
    ${downgrades if downgrades else "pass"}
