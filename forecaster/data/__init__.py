"""From a source to windows: sources, the long frame's checks, transforms, windows."""
