"""What keeps a daemon running and tells how it is: supervisor, status file, systemd, log."""
