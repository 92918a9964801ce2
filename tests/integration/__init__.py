"""With a real PostgreSQL, real sockets, a daemon in this process."""
