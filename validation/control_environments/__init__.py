"""Run the gate in control environments, and count red cases."""
