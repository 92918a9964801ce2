"""Stand-ins of the partner systems, for the demo and the tests; each runs alone: `python -m partners.crm --help`."""
