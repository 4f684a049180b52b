"""Everything that knows a database: connections, ESPF's own tables, SQL dialects."""
