"""How often a spotter is wrong on long audio: labels, the matching rule, sweeps of the threshold, sound made harder."""
