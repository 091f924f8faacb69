"""The digest: one summary per person and local day, at their minute."""
