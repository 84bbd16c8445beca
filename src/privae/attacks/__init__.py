"""The attacks: each a function of released things and test records that gives findings."""
