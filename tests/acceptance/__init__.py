"""The product from outside: processes, the command line, kills."""
