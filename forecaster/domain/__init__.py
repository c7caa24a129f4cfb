"""Types shared by all other packages: names, errors, configuration and the manifest. Imports no heavy library."""
