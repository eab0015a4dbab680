"""Training: one loop for the base model and for both stages of the paper; a stage is a YAML file."""
