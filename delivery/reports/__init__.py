"""What providers send us, in the provider's own form, as receipts and inbound messages. One file per provider."""
