"""What the commands of `mercer.cli` do, one file each."""
