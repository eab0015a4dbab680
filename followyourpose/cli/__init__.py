"""The console command: verbs, their arguments and their manual."""
