"""What a GPU makes of the code, by one command: see __main__."""
