"""For each setting, a mutant of the code that ignores it, and the test that should notice."""
