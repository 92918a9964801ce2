"""What all flows share: errors, the flow declaration, table base, ledger tables, source types."""
