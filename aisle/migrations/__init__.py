"""How the ledger's tables came to be what `aisle.ledger_tables` says, one revision after the other."""
