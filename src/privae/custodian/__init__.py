"""The custody of data on the command line: de-identifying, keys and sealed files, ledgers and their heads."""
