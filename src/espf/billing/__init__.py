"""The reference billing: a small but real billing database, which knows nothing of ESPF."""
