"""Which pixels belong to which object: found by motion, or read from files."""
