"""The web: the ESPF API for applications, and the billing API of the reference billing."""
