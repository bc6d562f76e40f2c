"""Many runs of one config: which there are, what each still needs, and the processes that do it."""
