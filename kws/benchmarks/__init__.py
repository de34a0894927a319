"""Commands that print figures, ours beside others, on the machine they run on."""
