"""The audit: which attacks run at which level, the coins and canaries that they rest on, and the verdict."""
