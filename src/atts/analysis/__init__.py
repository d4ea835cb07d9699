"""What the recorded chains of runs come to: records in, figures out, nothing drawn."""
