"""Privacy: bounded contributions, their sums, the noise, what it costs, and the ledger it is written in."""
