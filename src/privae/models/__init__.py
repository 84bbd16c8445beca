"""Models: networks, likelihoods, priors and the ELBO of one record; nothing here knows about privacy."""
