"""Run the gate in environments in which nothing is wrong, and count what is red."""
