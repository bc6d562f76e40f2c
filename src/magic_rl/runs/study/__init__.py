"""Many runs of one config: which there are, what each still needs, and processes that do it."""
