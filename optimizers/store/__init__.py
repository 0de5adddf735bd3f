"""Every rollout, durable: written before the next one starts."""
