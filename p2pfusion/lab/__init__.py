"""Experiments: trainings set side by side, in this process or in virtual time. It draws no conclusions."""
