"""Several sites, one model: the same recipe at every place, whose sums are formed under masks.

round and masking form one sum; study and fit say which sums a plan needs; site and coordinator are the two ends,
messages in and messages out; `privae.transport` carries the messages.
"""

EVALUATED = "evaluated.privae"
"""The model that a study evaluates, where the coordinator keeps it."""
