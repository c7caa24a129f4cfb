"""What every other room speaks of: names, errors, configuration, the manifest. Imports nothing heavy."""
