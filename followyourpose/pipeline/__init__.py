"""The diffusers pipeline: prompts and a skeleton clip -> videos; windows of long videos, image models, LoRAs."""
