"""The ledger: every statement on its tables, every lock, every change of state."""
