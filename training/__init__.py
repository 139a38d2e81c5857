"""The training room: from a catalogue to a registered classifier."""
