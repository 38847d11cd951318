"""The database's schema, as numbered migrations of plain SQL, applied by one job under the administrator's role."""
