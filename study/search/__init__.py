"""What is searched, by whom, and for what; what a study is."""
