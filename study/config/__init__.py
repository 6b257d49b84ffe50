"""What a user chooses: settings, methods, how a study is run, and whether the servers it names answer."""
