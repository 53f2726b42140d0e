"""What happens on the host in a run. Standard library only: it travels there as one zipapp."""
