"""Change feeds: where events about documents come from."""
