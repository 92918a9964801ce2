"""Pure logic and files in a temporary folder: no database, no network."""
