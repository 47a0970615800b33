"""`dyndepth reproduce`: published methods side by side, on the same data and budget."""
