"""The parts of kws.listen: the microphone, several spotters as one, the meter, clips kept, programs run."""
