"""From a registered version to the champion: the gate, the shadow, the aliases."""
