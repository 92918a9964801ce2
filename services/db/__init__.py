"""The database: the embedded server, connections, the schema, and what its errors mean."""
