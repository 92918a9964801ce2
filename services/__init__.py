"""What talks to the world outside the process; none of it imports `file_processing`."""
