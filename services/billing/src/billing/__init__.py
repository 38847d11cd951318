"""Prices usage, settles holds and posts the ledger."""
