"""Resources that processes of one machine share without a network: the run directory of an instance, its memory, its board."""
