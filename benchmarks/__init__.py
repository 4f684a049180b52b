"""What ESPF costs and how fast it is, measured against what the machine can do in the same run."""
