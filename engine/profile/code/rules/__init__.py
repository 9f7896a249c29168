"""What is looked for: a file for each kind of finding."""
