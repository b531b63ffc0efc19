"""What the processes of one machine share without a network: the run directory of an instance, its memory, the board in that."""
