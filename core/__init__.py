"""What every package may import: types and rules; no network, no environment."""
